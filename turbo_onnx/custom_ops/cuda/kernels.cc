#include "custom_ops/cuda/kernels.h"

#include <atomic>
#include <charconv>
#include <set>
#include <stdexcept>
#include <unordered_map>

#include "custom_ops/cuda/archive.h"
#include "custom_ops/cuda/modules.h"
#include "custom_ops/ort/tensor.h"

namespace turbo_onnx::cuda {
namespace {

constexpr uint64_t kMaxGridX = 0x7fffffff;  // of every device
constexpr uint64_t kMaxGridYZ = 65535;
constexpr uint32_t kWarp = 32;
constexpr uintptr_t kAlignment = 16;

const char* name(abi::ElementType type) {
  switch (type) {
    case abi::kFloat:
      return "float32";
    case abi::kFloat16:
      return "float16";
    case abi::kBFloat16:
      return "bfloat16";
    case abi::kDouble:
      return "float64";
    case abi::kInt64:
      return "int64";
    case abi::kInt32:
      return "int32";
    case abi::kBool:
      return "bool";
    default:
      break;
  }
  refuse("there are no kernels for tensors of element type ", type);
}

// The context of a stream, current on this thread while this exists. The null stream is the current context's.
class Current {
 public:
  Current(const Driver& api, CUstream stream) : api_(api) {
    CUcontext before = nullptr;
    check(api.cuCtxGetCurrent(&before), "cuCtxGetCurrent");
    context_ = before;
    if (stream != nullptr) check(api.cuStreamGetCtx(stream, &context_), "cuStreamGetCtx");
    if (context_ == nullptr) throw std::runtime_error("no CUDA context is current on this thread");
    if (context_ == before) return;
    check(api.cuCtxPushCurrent(context_), "cuCtxPushCurrent");
    pushed_ = true;
  }
  Current(const Current&) = delete;
  ~Current() {
    CUcontext popped = nullptr;
    if (pushed_) api_.cuCtxPopCurrent(&popped);
  }

  CUcontext context() const { return context_; }

  // Ends it where an error can still be told.
  void leave() {
    CUcontext popped = nullptr;
    if (pushed_) {
      pushed_ = false;
      check(api_.cuCtxPopCurrent(&popped), "cuCtxPopCurrent");
    }
  }

 private:
  const Driver& api_;
  CUcontext context_ = nullptr;
  bool pushed_ = false;
};

int device_capability(const Driver& api) {
  CUdevice device = 0;
  int major = 0, minor = 0;
  check(api.cuCtxGetDevice(&device), "cuCtxGetDevice");
  check(api.cuDeviceGetAttribute(&major, kComputeCapabilityMajor, device), "cuDeviceGetAttribute");
  check(api.cuDeviceGetAttribute(&minor, kComputeCapabilityMinor, device), "cuDeviceGetAttribute");
  return 10 * major + minor;
}

std::string sm(int capability) { return "sm_" + std::to_string(capability); }

std::string driver_version(const Driver& api) {
  int version = 0;
  if (api.cuDriverGetVersion(&version) != kSuccess) return "an unknown version of CUDA";
  return "CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

bool is_aligned(const Argument& argument) {
  return argument.type != 'p' || reinterpret_cast<uintptr_t>(argument.pointer) % kAlignment == 0;
}

// What was chosen for one context: a list that only grows, so that it is read without a lock.
struct Choice {
  CUcontext context;
  bool aligned;  // whether the pointers are
  const Code* code;
  CUfunction function;
  const Choice* next;
};

// All code of one key, the best first.
struct Kernel {
  const Code* begin = nullptr;
  const Code* end = nullptr;
  mutable std::atomic<const Choice*> choices{nullptr};

  Kernel() = default;
  Kernel(const Kernel&) = delete;
  ~Kernel() {
    for (const Choice* choice = choices.load(); choice != nullptr;) {
      const Choice* next = choice->next;
      delete choice;
      choice = next;
    }
  }
};

[[noreturn]] void refuse_device(const Driver& api, const Kernel& kernel, bool aligned, int capability,
                                const std::string& refusal) {
  std::set<std::string> found;
  for (const Code* code = kernel.begin; code != kernel.end; ++code) {
    if (code->aligned && !aligned) continue;
    found.insert(sm(code->capability) + (code->rule == Rule::kExact       ? " alone"
                                         : code->rule == Rule::kSameMajor ? ""
                                                                          : " and later as PTX"));
  }
  std::string sentence = "no compiled kernel runs on this device, which is " + sm(capability) + "; the model has ";
  if (found.empty()) sentence += "none for pointers that are not multiples of 16";
  for (const std::string& part : found) sentence += (part == *found.begin() ? "" : ", ") + part;
  if (!refusal.empty()) {
    sentence += "; the driver, of " + driver_version(api) + ", refused them: " + refusal + "; update the driver, or";
  } else {
    sentence += ";";
  }
  throw std::runtime_error(sentence + " optimize again with --target cuda:" + sm(capability));
}

const Choice& choose(const Driver& api, const Kernel& kernel, CUcontext context, bool aligned) {
  const int capability = device_capability(api);
  std::string refusal;
  for (const Code* code = kernel.begin; code != kernel.end; ++code) {
    if ((code->aligned && !aligned) || !code->runs_on(capability)) continue;
    CUfunction function = nullptr;
    const CUresult result = load(context, *code, &function);
    if (result == kSuccess) {
      auto* choice = new Choice{context, aligned, code, function, kernel.choices.load(std::memory_order_relaxed)};
      // Two threads may both add theirs; they are equal.
      while (!kernel.choices.compare_exchange_weak(choice->next, choice, std::memory_order_release,
                                                   std::memory_order_relaxed)) {
      }
      return *choice;
    }
    if (refusal.empty()) refusal = message(result);
  }
  refuse_device(api, kernel, aligned, capability, refusal);
}

const Choice& chosen(const Driver& api, const Kernel& kernel, CUcontext context, bool aligned) {
  for (const Choice* c = kernel.choices.load(std::memory_order_acquire); c != nullptr; c = c->next) {
    if (c->context == context && c->aligned == aligned) return *c;
  }
  return choose(api, kernel, context, aligned);
}

void require_arguments(const Code& code, const Argument* arguments, size_t count) {
  bool equal = code.arguments.size() == count;
  for (size_t i = 0; equal && i < count; ++i) equal = code.arguments[i] == arguments[i].type;
  if (equal) return;
  std::string given;
  for (size_t i = 0; i < count; ++i) given += arguments[i].type;
  refuse("called with arguments of types '", given, "', but compiled for '", std::string(code.arguments), "'");
}

}  // namespace

Key& Key::type(abi::ElementType type) {
  (text_ += ';') += name(type);
  return *this;
}

Key& Key::value(const char* name, int64_t number) {
  char digits[20];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), number).ptr;
  ((text_ += ';') += name) += '=';
  text_.append(digits, end);
  return *this;
}

// Each node reads the archive for itself: a few hundred entries take some 60 microseconds, once for each session, and
// nothing has to know when the bytes at an address become other bytes. Code is shared, see modules.h.
struct Kernels::State {
  std::vector<Code> codes;
  std::unordered_map<std::string_view, Kernel> kernels;

  State(const void* data, size_t bytes) : codes(read_archive(data, bytes)) {
    for (const Code& code : codes) {
      Kernel& kernel = kernels[code.key];
      if (kernel.begin == nullptr) kernel.begin = &code;
      kernel.end = &code + 1;
    }
  }

  const Kernel& find(const std::string& key) const {
    const auto found = kernels.find(key);
    require(found != kernels.end(), "the model has no compiled kernel of this name");
    return found->second;
  }
};

Kernels::Kernels(const void* data, size_t bytes) : state_(std::make_unique<State>(data, bytes)) {}
Kernels::~Kernels() = default;
Kernels::Kernels(Kernels&&) noexcept = default;

void Kernels::launch(CUstream stream, const std::string& key, GridMaker make_grid, const Argument* arguments,
                     size_t count, void** parameters) const try {
  const Kernel& kernel = state_->find(key);
  const Driver& api = driver();
  Current current(api, stream);
  bool aligned = true;
  for (size_t i = 0; i < count; ++i) aligned = aligned && is_aligned(arguments[i]);
  const Choice& choice = chosen(api, kernel, current.context(), aligned);
  const Code& code = *choice.code;
  require_arguments(code, arguments, count);
  const Grid grid = make_grid.call(make_grid.make, code.tile);
  require(grid.x <= kMaxGridX && grid.y <= kMaxGridYZ && grid.z <= kMaxGridYZ, "a grid of ", grid.x, " x ", grid.y,
          " x ", grid.z, " programs is beyond what devices have");
  if (grid.x > 0 && grid.y > 0 && grid.z > 0) {
    const void* scratch = nullptr;
    for (size_t i = 0; i < count; ++i) parameters[i] = const_cast<const void**>(&arguments[i].pointer);
    for (size_t i = 0; i < kScratchPointers; ++i) parameters[count + i] = &scratch;
    check(api.cuLaunchKernel(choice.function, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                             static_cast<unsigned>(grid.z), kWarp * code.warps, 1, 1, code.shared, stream, parameters,
                             nullptr),
          "cuLaunchKernel");
  }
  current.leave();
} catch (const InvalidArgument& error) {
  throw InvalidArgument(key + ": " + error.what());
} catch (const std::runtime_error& error) {
  throw std::runtime_error(key + ": " + error.what());
}

int32_t Kernels::read(CUstream stream, const int32_t* device) const {
  const Driver& api = driver();
  Current current(api, stream);
  int32_t value = 0;
  check(api.cuMemcpyDtoHAsync(&value, reinterpret_cast<CUdeviceptr>(device), sizeof value, stream),
        "cuMemcpyDtoHAsync");
  check(api.cuStreamSynchronize(stream), "cuStreamSynchronize");
  current.leave();
  return value;
}

}  // namespace turbo_onnx::cuda
