#include "custom_ops/cuda/modules.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>

#include "custom_ops/ort/tensor.h"

namespace turbo_onnx::cuda {
namespace {

constexpr uint32_t kSharedWithoutAsking = 48 * 1024;

// Equal digests are equal code; what is set on the function is part of what it is.
using Identity = std::tuple<CUcontext, Digest, std::string, uint32_t>;  // with symbol and shared memory

struct Slot {
  std::mutex mutex;  // held while loading
  CUfunction function = nullptr;
};

// References stay valid: a map does not move its elements, and none is ever removed.
Slot& slot(const Identity& identity) {
  static std::mutex mutex;
  static auto& slots = *new std::map<Identity, Slot>;
  const std::lock_guard<std::mutex> lock(mutex);
  return slots[identity];
}

bool is_refusal(CUresult result) {
  return result == kInvalidImage || result == kNoBinaryForGpu || result == kInvalidPtx ||
         result == kJitCompilerNotFound || result == kUnsupportedPtxVersion;
}

void require_intact(const Code& code) {
  const bool terminated = code.rule != Rule::kLater || static_cast<const char*>(code.image)[code.bytes - 1] == '\0';
  require(terminated && sha256(code.image, code.bytes) == code.digest,
          "the compiled kernels in the model are damaged: the code does not have the digest that it had");
}

void allow_shared_memory(const Driver& api, CUfunction function, uint32_t bytes) {
  if (bytes <= kSharedWithoutAsking) return;
  CUdevice device = 0;
  int limit = 0;
  check(api.cuCtxGetDevice(&device), "cuCtxGetDevice");
  check(api.cuDeviceGetAttribute(&limit, kMaxSharedMemoryOptin, device), "cuDeviceGetAttribute");
  if (limit < 0 || bytes > static_cast<uint32_t>(limit)) {
    throw std::runtime_error("needs " + std::to_string(bytes) + " bytes of shared memory, but this device has " +
                             std::to_string(limit));
  }
  check(api.cuFuncSetAttribute(function, kMaxDynamicSharedSize, static_cast<int>(bytes)), "cuFuncSetAttribute");
}

// Unloads a module of which no function is handed out.
class Module {
 public:
  Module(const Driver& api, CUmodule module) : api_(api), module_(module) {}
  Module(const Module&) = delete;
  ~Module() {
    if (module_ != nullptr) api_.cuModuleUnload(module_);
  }
  void keep() { module_ = nullptr; }

 private:
  const Driver& api_;
  CUmodule module_;
};

}  // namespace

CUresult load(CUcontext context, const Code& code, CUfunction* function) {
  const std::string symbol(code.symbol);
  Slot& place = slot({context, code.digest, symbol, code.shared});
  const std::lock_guard<std::mutex> lock(place.mutex);
  if (place.function == nullptr) {
    require_intact(code);
    const Driver& api = driver();
    CUmodule handle = nullptr;
    const CUresult loaded = api.cuModuleLoadData(&handle, code.image);
    if (is_refusal(loaded)) return loaded;
    check(loaded, "cuModuleLoadData");
    Module module(api, handle);
    CUfunction found = nullptr;
    const CUresult finding = api.cuModuleGetFunction(&found, handle, symbol.c_str());
    if (is_refusal(finding)) return finding;  // a driver that loads lazily only looks at the image now
    check(finding, "cuModuleGetFunction");
    allow_shared_memory(api, found, code.shared);
    module.keep();
    place.function = found;
  }
  *function = place.function;
  return kSuccess;
}

}  // namespace turbo_onnx::cuda
