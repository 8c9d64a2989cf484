// Turns one class into the table of functions that ONNX Runtime wants of a custom operator.
//
// The class has
//   using Signature = signature::<Name>;                        generated from the operator's specification
//   explicit Operator(const Signature::Attributes&);            may throw
//   void compute(const Context&, <kernels>) const;              may throw; called by several threads at once
//   static inline int in_place_inputs[] = {…};                  optional, with in_place_outputs: the pairs of an input
//                                                               and an output that may share memory
//
// A runner says on which kernels it computes:
//   static constexpr bool carries_kernels;                      whether nodes have the archive of compiled kernels as a
//                                                               further, last input, which stays on the CPU
//   Runner(const OrtApi*, const OrtKernelInfo*, size_t inputs); inputs: how many the signature has
//   void run(const Operator&, const OrtApi*, OrtKernelContext*) const;
//
// No shape function is given to ONNX Runtime: up to 1.31 at least, it reads through a null pointer when an optional
// input is left out before another, and shows an unknown rank as a scalar. Artifacts carry their shapes themselves.
#pragma once

#include <iterator>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "custom_ops/ort/abi.h"
#include "custom_ops/ort/kernels.h"
#include "custom_ops/ort/tensor.h"

namespace turbo_onnx {

// Reads the attributes of a node. One that the node does not have takes its default, or is an error if required.
class AttributeReader {
 public:
  AttributeReader(const abi::OrtApi* api, const abi::OrtKernelInfo* info) : api_(api), info_(info) {}

  int64_t integer(const char* name, std::optional<int64_t> otherwise = {}) const {
    int64_t value = 0;
    return found(abi::KernelInfoGetAttribute_int64(api_, info_, name, &value), otherwise) ? value : *otherwise;
  }

  float real(const char* name, std::optional<float> otherwise = {}) const {
    float value = 0;
    return found(abi::KernelInfoGetAttribute_float(api_, info_, name, &value), otherwise) ? value : *otherwise;
  }

  std::string string(const char* name, std::optional<std::string> otherwise = {}) const {
    size_t size = 0;
    if (!found(abi::KernelInfoGetAttribute_string(api_, info_, name, nullptr, &size), otherwise)) return *otherwise;
    std::string value(size, '\0');
    check(api_, abi::KernelInfoGetAttribute_string(api_, info_, name, value.data(), &size));
    value.resize(size - 1);
    return value;
  }

 private:
  template <class T>
  bool found(abi::OrtStatus* status, const std::optional<T>& otherwise) const {
    if (status == nullptr) return true;
    if (!otherwise) check(api_, status);
    abi::ReleaseStatus(api_, status);
    return false;
  }

  const abi::OrtApi* api_;
  const abi::OrtKernelInfo* info_;
};

template <class Operator, class = void>
struct InPlace {
  static constexpr size_t (*get)(int**, int**) = nullptr;
  static constexpr void (*release)(int*, int*) = nullptr;
};

template <class Operator>
struct InPlace<Operator, std::void_t<decltype(Operator::in_place_inputs)>> {
  static size_t get(int** inputs, int** outputs) {
    static_assert(std::size(Operator::in_place_inputs) == std::size(Operator::in_place_outputs));
    *inputs = Operator::in_place_inputs;
    *outputs = Operator::in_place_outputs;
    return std::size(Operator::in_place_inputs);
  }
  static void release(int*, int*) {}  // nothing was allocated
};

// Runs on the CPU's kernels.
struct CpuRunner {
  static constexpr bool carries_kernels = false;

  CpuRunner(const abi::OrtApi*, const abi::OrtKernelInfo*, size_t) {}

  template <class Operator>
  void run(const Operator& operation, const abi::OrtApi* api, abi::OrtKernelContext* context) const {
    operation.compute(Context(api, context), kernels());
  }
};

constexpr const char* kCpuProvider = "CPUExecutionProvider";

// One operator for one choice of types (ONNX Runtime takes several of one name and picks by type), under one of its
// names, for one execution provider. It must live as long as any session does.
template <class Operator, class Runner>
class CustomOp : public abi::OrtCustomOp {
  using Signature = typename Operator::Signature;
  static constexpr size_t kInputs = std::size(Signature::inputs);

  struct Kernel {
    const abi::OrtApi* api;
    Operator operation;
    Runner runner;
  };

 public:
  CustomOp(std::string name, const char* provider, const abi::ElementType* types)
      : abi::OrtCustomOp{}, name_(std::move(name)), provider_(provider), types_(types) {
    version = abi::kApiVersion;
    GetName = [](const abi::OrtCustomOp* op) { return static_cast<const CustomOp*>(op)->name_.c_str(); };
    GetExecutionProviderType = [](const abi::OrtCustomOp* op) { return static_cast<const CustomOp*>(op)->provider_; };
    GetInputTypeCount = [](const abi::OrtCustomOp*) { return kInputs + Runner::carries_kernels; };
    GetOutputTypeCount = [](const abi::OrtCustomOp*) { return std::size(Signature::outputs); };
    GetInputType = [](const abi::OrtCustomOp* op, size_t index) {
      return index < kInputs ? static_cast<const CustomOp*>(op)->types_[index] : abi::kUint8;
    };
    GetOutputType = [](const abi::OrtCustomOp* op, size_t index) {
      return static_cast<const CustomOp*>(op)->types_[kInputs + index];
    };
    GetInputCharacteristic = [](const abi::OrtCustomOp*, size_t index) {
      return index < kInputs ? Signature::inputs[index] : abi::kRequired;
    };
    GetOutputCharacteristic = [](const abi::OrtCustomOp*, size_t index) { return Signature::outputs[index]; };
    GetInputMemoryType = [](const abi::OrtCustomOp*, size_t index) {
      return index < kInputs ? abi::kDefaultMemory : abi::kCpuInputMemory;
    };
    GetMayInplace = InPlace<Operator>::get;
    ReleaseMayInplace = InPlace<Operator>::release;
    CreateKernelV2 = [](const abi::OrtCustomOp*, const abi::OrtApi* api, const abi::OrtKernelInfo* info,
                        void** kernel) {
      return guarded(api, Signature::name, [&] {
        const auto attributes = Signature::Attributes::read(AttributeReader(api, info));
        *kernel = new Kernel{api, Operator(attributes), Runner(api, info, kInputs)};
      });
    };
    KernelComputeV2 = [](void* kernel, abi::OrtKernelContext* context) {
      const Kernel& self = *static_cast<Kernel*>(kernel);
      return guarded(self.api, Signature::name, [&] { self.runner.run(self.operation, self.api, context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }

 private:
  std::string name_;
  const char* provider_;
  const abi::ElementType* types_;  // of the inputs, then of the outputs
};

// Adds the operator under each of its names, once for each choice of types. The objects are never freed: sessions that
// outlive everything else in the process may still point at them.
template <class Operator, class Runner, class Types>
void add(std::vector<const abi::OrtCustomOp*>& ops, const char* provider, const Types& choices) {
  using Signature = typename Operator::Signature;
  for (int number = 1; number <= Signature::names; ++number) {
    const std::string name =
        number == 1 ? Signature::name : std::string(Signature::name) + "_" + std::to_string(number);
    for (const auto& types : choices) ops.push_back(new CustomOp<Operator, Runner>(name, provider, types));
  }
}

}  // namespace turbo_onnx
