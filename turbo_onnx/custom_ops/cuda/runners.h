// On what an operator of the domain turbo_onnx.cuda runs: the compiled kernels that its node carries, or, where the
// model is run without a GPU, the CPU's.
#pragma once

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/ort/operator.h"

namespace turbo_onnx::cuda {

constexpr const char* kProvider = "CUDAExecutionProvider";

// `Operator` is a class of a cuda.h: compute(const Context&, const cuda::Kernels&). Its tensors are on the device.
class CudaRunner {
 public:
  static constexpr bool carries_kernels = true;

  CudaRunner(const abi::OrtApi* api, const abi::OrtKernelInfo* info, size_t inputs)
      : kernels_(archive(api, info, inputs)) {}

  template <class Operator>
  void run(const Operator& operation, const abi::OrtApi* api, abi::OrtKernelContext* context) const {
    operation.compute(Context(api, context), kernels_);
  }

 private:
  static Kernels archive(const abi::OrtApi* api, const abi::OrtKernelInfo* info, size_t index) {
    int constant = 0;
    const abi::OrtValue* value = nullptr;
    turbo_onnx::check(api, abi::KernelInfoGetConstantInput_tensor(api, info, index, &constant, &value));
    require(constant != 0 && value != nullptr, "its last input, kernels, must be an initializer");
    const Tensor tensor = describe(api, const_cast<abi::OrtValue*>(value));
    return Kernels(tensor.data, tensor.count());
  }

  Kernels kernels_;
};

// `Operator` is a class of an operator.h. Where it has no kernel for half precision it computes in float32.
class CpuFallbackRunner {
 public:
  static constexpr bool carries_kernels = true;

  CpuFallbackRunner(const abi::OrtApi*, const abi::OrtKernelInfo*, size_t) {}

  template <class Operator>
  void run(const Operator& operation, const abi::OrtApi* api, abi::OrtKernelContext* context) const {
    if constexpr (Operator::Signature::widens) {
      Widening widening;
      operation.compute(Context(api, context, &widening), turbo_onnx::kernels());
      widening.finish();
    } else {
      operation.compute(Context(api, context), turbo_onnx::kernels());
    }
  }
};

}  // namespace turbo_onnx::cuda
