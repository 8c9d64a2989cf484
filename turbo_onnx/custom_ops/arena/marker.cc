#include "custom_ops/arena/marker.h"

#include <array>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "custom_ops/arena/allocator.h"
#include "custom_ops/arena/plan.h"
#include "custom_ops/arena/planned_session.h"
#include "custom_ops/arena/run.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/status.h"
#include "custom_ops/ort/tensor.h"

namespace turbo_onnx::arena {
namespace {

constexpr const char* kName = "BeginRun";
constexpr size_t kAliases = 1024;  // pairs of an input and an output that share memory; there is no way to say "all"

// Of an element of this ONNXTensorElementDataType; 0 where it is no whole number of bytes, or no plain bytes.
size_t element_bytes(abi::ElementType type) {
  constexpr uint8_t kBytes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8, 16, 2, 1, 1, 1, 1};
  const auto index = static_cast<size_t>(type);
  return index < std::size(kBytes) ? kBytes[index] : 0;
}

void copy_strings(const abi::OrtApi* api, const abi::OrtValue* from, abi::OrtValue* to, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    size_t length = 0;
    char* string = nullptr;
    check(api, abi::GetStringTensorElementLength(api, from, i, &length));
    check(api, abi::GetResizedStringTensorElementBuffer(api, to, i, length, &string));
    check(api, abi::GetStringTensorElement(api, from, length, i, string));
  }
}

// What a run does where an output was given memory of its own: it is an output of the model, too.
void copy(const abi::OrtApi* api, const abi::OrtValue* from, abi::OrtValue* to, const Tensor& tensor, void* data) {
  if (tensor.type == abi::kString) return copy_strings(api, from, to, tensor.count());
  const size_t bytes = element_bytes(tensor.type);
  require(bytes != 0, "an input is of a type that cannot be copied: ", static_cast<int64_t>(tensor.type));
  std::memcpy(data, tensor.data, tensor.count() * bytes);
}

// Tells those who operate the session, through its own logger.
PlannedSession::Warn warn_through(const abi::OrtApi* api, const abi::OrtLogger* logger) {
  return [api, logger](const char* sentence) {
    constexpr int kWarning = 2;
    const std::string message = std::string("turbo_onnx: ") + sentence;
    abi::OrtStatus* status = abi::Logger_LogMessage(api, logger, kWarning, message.c_str(), "marker.cc", 0, kName);
    if (status != nullptr) abi::ReleaseStatus(api, status);
  };
}

class Kernel {
 public:
  Kernel(const abi::OrtApi* api, const abi::OrtKernelInfo* info, const Policy& policy) : api_(api) {
    const std::string text = AttributeReader(api, info).string("plan", "");
    if (text.empty()) return;  // a model of which a plan is being made
    Plan plan = parse_plan(text);
    if (policy.kind == Policy::kOff) return;
    const abi::OrtLogger* logger = nullptr;
    check(api, abi::KernelInfo_GetLogger(api, info, &logger));
    session_ = std::make_shared<PlannedSession>(std::move(plan), pool(policy), warn_through(api, logger));
  }

  ~Kernel() {
    if (session_ != nullptr) session_->close();
  }

  const abi::OrtApi* api() const { return api_; }

  void compute(abi::OrtKernelContext* context) const {
    size_t inputs = 0;
    check(api_, abi::KernelContext_GetInputCount(api_, context, &inputs));
    std::vector<Shape> shapes(inputs);
    for (size_t i = 0; i < inputs; ++i) shapes[i] = pass(context, i);
    announce(session_, shapes);
  }

 private:
  // The output is the input, in the same memory if that can be.
  Shape pass(abi::OrtKernelContext* context, size_t index) const {
    const abi::OrtValue* value = nullptr;
    check(api_, abi::KernelContext_GetInput(api_, context, index, &value));
    const Tensor input = describe(api_, const_cast<abi::OrtValue*>(value));
    abi::OrtValue* passed = nullptr;
    check(api_, abi::KernelContext_GetOutput(api_, context, index, input.shape.data(), input.shape.size(), &passed));
    if (passed == nullptr) return input.shape;
    void* data = nullptr;
    check(api_, abi::GetTensorMutableData(api_, passed, &data));
    if (data != input.data && input.count() != 0) copy(api_, value, passed, input, data);
    return input.shape;
  }

  const abi::OrtApi* api_;
  std::shared_ptr<PlannedSession> session_;
};

// It has no shape function: in those, ONNX Runtime shows an unknown dimension as -1 and an unknown rank as none, and
// believes what it is then told. The model says the types and shapes of the outputs.
class Marker : public abi::OrtCustomOp {
 public:
  Marker(const abi::OrtApi* api, const Policy& policy) : abi::OrtCustomOp{}, api_(api), policy_(policy) {
    version = abi::kApiVersion;
    GetName = [](const abi::OrtCustomOp*) { return kName; };
    // Asked whenever a session is made, before it looks for allocators. There is an environment then.
    GetExecutionProviderType = [](const abi::OrtCustomOp* op) {
      const Marker& self = *static_cast<const Marker*>(op);
      if (self.policy_.kind != Policy::kOff) provide(self.api_);
      return kCpuProvider;
    };
    GetInputTypeCount = GetOutputTypeCount = [](const abi::OrtCustomOp*) { return size_t{1}; };
    GetInputType = GetOutputType = [](const abi::OrtCustomOp*, size_t) { return abi::kUndefined; };
    GetInputCharacteristic = GetOutputCharacteristic = [](const abi::OrtCustomOp*, size_t) { return abi::kVariadic; };
    GetInputMemoryType = [](const abi::OrtCustomOp*, size_t) { return abi::kDefaultMemory; };
    GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const abi::OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const abi::OrtCustomOp*) { return 0; };
    GetAliasMap = [](int** inputs, int** outputs) {
      static std::array<int, kAliases> indices = [] {
        std::array<int, kAliases> every;
        std::iota(every.begin(), every.end(), 0);
        return every;
      }();
      *inputs = *outputs = indices.data();
      return kAliases;
    };
    ReleaseAliasMap = [](int*, int*) {};  // nothing was allocated
    CreateKernelV2 = [](const abi::OrtCustomOp* op, const abi::OrtApi* api, const abi::OrtKernelInfo* info,
                        void** kernel) {
      return guarded(api, kName, [&] { *kernel = new Kernel(api, info, static_cast<const Marker*>(op)->policy_); });
    };
    KernelComputeV2 = [](void* kernel, abi::OrtKernelContext* context) {
      const Kernel& self = *static_cast<Kernel*>(kernel);
      return guarded(self.api(), kName, [&] { self.compute(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }

 private:
  const abi::OrtApi* const api_;
  const Policy policy_;
};

}  // namespace

const abi::OrtCustomOp* make_marker(const abi::OrtApi* api, const Policy& policy) { return new Marker(api, policy); }

}  // namespace turbo_onnx::arena
