// The state of the fake driver, and the checks that it makes.
#pragma once

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "custom_ops/cuda/driver.h"

namespace turbo_onnx::cuda {

struct CUctx_st {
  int id;
  int device;
};
struct CUmod_st {
  CUcontext context;
  std::string image;
};
struct CUfunc_st {
  CUmodule module;
  std::string symbol;
  int max_dynamic_shared = 48 * 1024;
};

constexpr CUresult kInvalidValue = 1;
constexpr CUresult kNotInitialized = 3;
constexpr CUresult kInvalidDevice = 101;
constexpr CUresult kInvalidContext = 201;
constexpr CUresult kInvalidHandle = 400;
constexpr CUresult kNotFound = 500;

struct Stream {
  int id;
  CUcontext context;
};

struct Device {
  int capability = 90;
  int max_shared = 232448;
  CUcontext primary = nullptr;
};

struct Failure {
  CUresult result;
  int after;  // calls
};

using LaunchCallback = int (*)(const char* image, const char* symbol, const unsigned grid[3], unsigned block_x,
                               unsigned shared, void** parameters, CUstream stream);

// Everything that calls change, under one mutex. A Fake is never freed, as its handles are not.
struct Fake {
  bool initialized = false;
  int version = 12080;
  int contexts_made = 0;
  int streams_made = 0;
  int load_delay = 0;  // microseconds
  int loading = 0;
  int most_loading = 0;
  std::map<int, Device> devices;
  std::set<CUcontext> contexts;
  std::set<const void*> streams;
  std::set<CUmodule> modules;
  std::set<CUfunction> functions;
  std::multimap<std::string, Failure> failures;
  std::string log;
  LaunchCallback launch = nullptr;

  CUcontext make_context(int device) {
    const CUcontext context = new CUctx_st{contexts_made++, device};
    contexts.insert(context);
    return context;
  }
};

inline std::mutex mutex;
inline int generation = 0;
inline Fake* fake = nullptr;

inline void set_device(int ordinal, int capability, int max_shared) {
  Device& device = fake->devices[ordinal];
  device.capability = capability;
  device.max_shared = max_shared;
  if (device.primary == nullptr) device.primary = fake->make_context(ordinal);
}

inline void reset() {
  ++generation;
  fake = new Fake;
  set_device(0, 90, 232448);
}

// The contexts of this thread, the current one last; null where none is.
struct Stack {
  int generation = -1;
  std::vector<CUcontext> contexts;
};

inline Stack& stack() {
  static thread_local Stack stack;
  if (stack.generation != generation) stack = {generation, {fake->devices.at(0).primary}};
  return stack;
}

inline CUcontext current() { return stack().contexts.empty() ? nullptr : stack().contexts.back(); }

inline std::string text(CUcontext context) {
  return context == nullptr ? "none" : fake->contexts.count(context) ? std::to_string(context->id) : "unknown";
}

inline std::string text(CUstream stream) {
  if (stream == nullptr) return "null";
  return fake->streams.count(stream) ? std::to_string(static_cast<Stream*>(stream)->id) : "unknown";
}

inline std::string text(CUmodule module) { return fake->modules.count(module) ? "[" + module->image + "]" : "unknown"; }

inline std::string text(CUfunction function) {
  return fake->functions.count(function) ? function->symbol + text(function->module) : "unknown";
}

inline std::string text(unsigned x, unsigned y, unsigned z) {
  return std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z);
}

// One call: what is logged and whether it fails, with the lock held.
class Call {
 public:
  explicit Call(const char* function) : lock_(mutex), function_(function) {
    if (fake == nullptr) reset();
  }

  // Ends the beginning of every function: logs it, and returns what it must fail with.
  CUresult begin(const std::string& arguments = "") {
    (((fake->log += function_) += arguments.empty() ? "" : " ") += arguments) += "\n";
    CUresult result = kSuccess;
    const auto [first, last] = fake->failures.equal_range(function_);
    for (auto next = first; next != last;) {
      const auto failure = next++;
      if (--failure->second.after > 0) continue;
      result = failure->second.result;
      fake->failures.erase(failure);
    }
    if (result != kSuccess) return result;
    return fake->initialized || std::strcmp(function_, "cuInit") == 0 ? CUresult{kSuccess} : kNotInitialized;
  }

  void unlock() { lock_.unlock(); }
  void lock() { lock_.lock(); }

 private:
  std::unique_lock<std::mutex> lock_;
  const char* function_;
};

// The stream's context has to be the current one; the null stream is in every context.
inline CUresult check_stream(CUstream stream) {
  if (current() == nullptr) return kInvalidContext;
  if (stream == nullptr) return kSuccess;
  if (fake->streams.count(stream) == 0) return kInvalidHandle;
  return static_cast<Stream*>(stream)->context == current() ? CUresult{kSuccess} : kInvalidContext;
}

inline CUresult check_function(CUfunction function) {
  if (fake->functions.count(function) == 0 || fake->modules.count(function->module) == 0) return kInvalidHandle;
  return function->module->context == current() ? CUresult{kSuccess} : kInvalidContext;
}

inline CUresult check_image(const void* image, int device_capability) {
  constexpr const char* kMagic = "FAKE ";
  if (image == nullptr) return kInvalidValue;
  const auto* text = static_cast<const char*>(image);
  if (std::strncmp(text, kMagic, std::strlen(kMagic)) != 0) return kInvalidImage;
  char* end = nullptr;
  const long capability = std::strtol(text + std::strlen(kMagic), &end, 10);
  const long rule = std::strtol(end, &end, 10);
  const bool later = device_capability >= capability;
  const bool runs = rule == 0   ? device_capability == capability
                    : rule == 1 ? device_capability / 10 == capability / 10 && later
                                : rule == 2 && later;
  return runs ? CUresult{kSuccess} : kNoBinaryForGpu;
}

struct Named {
  CUresult result;
  const char* name;
  const char* text;
};

constexpr Named kNames[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kNoBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {kInvalidPtx, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {kJitCompilerNotFound, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "PTX JIT compiler library not found"},
    {kUnsupportedPtxVersion, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
};

inline const Named* named(CUresult result) {
  for (const Named& entry : kNames) {
    if (entry.result == result) return &entry;
  }
  return nullptr;
}

}  // namespace turbo_onnx::cuda
