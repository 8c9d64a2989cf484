#include "custom_ops/arena/marker.h"

#include <array>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "custom_ops/arena/plan.h"
#include "custom_ops/arena/planned_session.h"
#include "custom_ops/arena/run.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/status.h"
#include "custom_ops/ort/tensor.h"

namespace turbo_onnx::arena {
namespace {

constexpr const char* kName = "BeginRun";
constexpr size_t kAliases = 64;  // pairs of an input and an output that share memory; there is no way to say "all"

// Of an element of this ONNXTensorElementDataType; 0 where it is no whole number of bytes, or no plain bytes.
size_t element_bytes(abi::ElementType type) {
  constexpr uint8_t kBytes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8, 16, 2, 1, 1, 1, 1};
  const auto index = static_cast<size_t>(type);
  return index < std::size(kBytes) ? kBytes[index] : 0;
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
  // The output is the input. Where it was given other memory, the data go there.
  Shape pass(abi::OrtKernelContext* context, size_t index) const {
    const abi::OrtValue* value = nullptr;
    check(api_, abi::KernelContext_GetInput(api_, context, index, &value));
    const Tensor input = describe(api_, const_cast<abi::OrtValue*>(value));
    abi::OrtValue* passed = nullptr;
    check(api_, abi::KernelContext_GetOutput(api_, context, index, input.shape.data(), input.shape.size(), &passed));
    if (passed == nullptr) return input.shape;
    void* data = nullptr;
    check(api_, abi::GetTensorMutableData(api_, passed, &data));
    if (data != input.data && input.count() != 0) {
      const size_t bytes = element_bytes(input.type);
      require(bytes != 0, "input ", static_cast<int64_t>(index), " is of a type that cannot be copied");
      std::memcpy(data, input.data, input.count() * bytes);
    }
    return input.shape;
  }

  const abi::OrtApi* api_;
  std::shared_ptr<PlannedSession> session_;
};

class Marker : public abi::OrtCustomOp {
 public:
  Marker(const abi::OrtApi* api, const Policy& policy) : abi::OrtCustomOp{}, api_(api), policy_(policy) {
    version = abi::kApiVersion;
    GetName = [](const abi::OrtCustomOp*) { return kName; };
    GetExecutionProviderType = [](const abi::OrtCustomOp*) { return kCpuProvider; };
    GetInputTypeCount = GetOutputTypeCount = [](const abi::OrtCustomOp*) { return size_t{1}; };
    GetInputType = GetOutputType = [](const abi::OrtCustomOp*, size_t) { return abi::kUndefined; };
    GetInputCharacteristic = GetOutputCharacteristic = [](const abi::OrtCustomOp*, size_t) { return abi::kVariadic; };
    GetInputMemoryType = [](const abi::OrtCustomOp*, size_t) { return abi::kDefaultMemory; };
    GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const abi::OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const abi::OrtCustomOp*) { return 0; };
    InferOutputShapeFn = [](const abi::OrtCustomOp* op, abi::OrtShapeInferContext* context) {
      const abi::OrtApi* api = static_cast<const Marker*>(op)->api_;
      return guarded(api, kName, [&] { infer(api, context); });
    };
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
  static void infer(const abi::OrtApi* api, abi::OrtShapeInferContext* context) {
    size_t inputs = 0;
    check(api, abi::ShapeInferContext_GetInputCount(api, context, &inputs));
    for (size_t i = 0; i < inputs; ++i) {
      abi::OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's
      check(api, abi::ShapeInferContext_GetInputTypeShape(api, context, i, &info));
      name_sizes(api, info, i);
      check(api, abi::ShapeInferContext_SetOutputTypeShape(api, context, i, info));
    }
  }

  // Sizes that are neither known nor named would be taken for -1.
  static void name_sizes(const abi::OrtApi* api, abi::OrtTensorTypeAndShapeInfo* info, size_t input) {
    size_t rank = 0;
    check(api, abi::GetDimensionsCount(api, info, &rank));
    Shape sizes(rank);
    std::vector<const char*> names(rank);
    check(api, abi::GetDimensions(api, info, sizes.data(), rank));
    check(api, abi::GetSymbolicDimensions(api, info, names.data(), rank));
    std::vector<std::string> made(rank);
    for (size_t axis = 0; axis < rank; ++axis) {
      if (sizes[axis] >= 0 || (names[axis] != nullptr && *names[axis] != '\0')) continue;
      made[axis] = "turbo_onnx_size_" + std::to_string(input) + "_" + std::to_string(axis);
      names[axis] = made[axis].c_str();
    }
    check(api, abi::SetSymbolicDimensions(api, info, names.data(), rank));
  }

  const abi::OrtApi* api_;
  const Policy policy_;
};

}  // namespace

const abi::OrtCustomOp* make_marker(const abi::OrtApi* api, const Policy& policy) { return new Marker(api, policy); }

}  // namespace turbo_onnx::arena
