#include "custom_ops/cuda/driver.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>

namespace turbo_onnx::cuda {
namespace {

std::string message(const Driver& driver, CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (driver.cuGetErrorName(result, &name) != kSuccess || name == nullptr) return "error " + std::to_string(result);
  if (driver.cuGetErrorString(result, &text) != kSuccess || text == nullptr) return name;
  return std::string(name) + " (" + text + ")";
}

class Library {
 public:
  explicit Library(const char* file) : file_(file), handle_(dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(std::string("no NVIDIA driver here: ") + dlerror());
  }

  template <class Function>
  void find(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (function == nullptr) {
      throw std::runtime_error("the NVIDIA driver " + file_ + " lacks " + name + ": update it");
    }
  }

 private:
  std::string file_;
  void* handle_;  // never closed: a driver that has run keeps threads and handlers
};

std::unique_ptr<const Driver> open() {
  const char* chosen = std::getenv("TURBO_ONNX_CUDA_DRIVER");
  const Library library(chosen != nullptr ? chosen : "libcuda.so.1");
  auto driver = std::make_unique<Driver>();
  library.find("cuInit", driver->cuInit);
  library.find("cuDriverGetVersion", driver->cuDriverGetVersion);
  library.find("cuGetErrorName", driver->cuGetErrorName);
  library.find("cuGetErrorString", driver->cuGetErrorString);
  library.find("cuCtxGetCurrent", driver->cuCtxGetCurrent);
  library.find("cuCtxPushCurrent_v2", driver->cuCtxPushCurrent);
  library.find("cuCtxPopCurrent_v2", driver->cuCtxPopCurrent);
  library.find("cuCtxGetDevice", driver->cuCtxGetDevice);
  library.find("cuDeviceGetAttribute", driver->cuDeviceGetAttribute);
  library.find("cuStreamGetCtx", driver->cuStreamGetCtx);
  library.find("cuStreamSynchronize", driver->cuStreamSynchronize);
  library.find("cuMemcpyDtoHAsync_v2", driver->cuMemcpyDtoHAsync);
  library.find("cuModuleLoadData", driver->cuModuleLoadData);
  library.find("cuModuleUnload", driver->cuModuleUnload);
  library.find("cuModuleGetFunction", driver->cuModuleGetFunction);
  library.find("cuFuncSetAttribute", driver->cuFuncSetAttribute);
  library.find("cuLaunchKernel", driver->cuLaunchKernel);
  const CUresult result = driver->cuInit(0);
  if (result != kSuccess) throw std::runtime_error("cuInit failed: " + message(*driver, result));
  return driver;
}

}  // namespace

const Driver& driver() {
  static std::atomic<const Driver*> opened{nullptr};  // never freed: sessions may outlive static objects
  static std::mutex mutex;
  if (const Driver* driver = opened.load(std::memory_order_acquire)) return *driver;
  const std::lock_guard<std::mutex> lock(mutex);
  if (opened.load(std::memory_order_relaxed) == nullptr) opened.store(open().release(), std::memory_order_release);
  return *opened.load(std::memory_order_relaxed);
}

std::string message(CUresult result) { return message(driver(), result); }

void fail(CUresult result, std::string_view what) {
  throw std::runtime_error(std::string(what) + " failed: " + message(result));
}

}  // namespace turbo_onnx::cuda
