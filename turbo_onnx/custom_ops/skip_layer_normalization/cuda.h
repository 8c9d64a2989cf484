#pragma once

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/skip_layer_normalization/operator.h"

namespace turbo_onnx {

class CudaSkipLayerNormalization {
 public:
  using Signature = signature::SkipLayerNormalization;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::x, In::skip};
  static inline int in_place_outputs[] = {Out::output, Out::sum};

  explicit CudaSkipLayerNormalization(const Signature::Attributes& attributes)
      : epsilon_(attributes.epsilon), rms_(SkipLayerNormalization::subtracts_no_mean(attributes)) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const SkipLayerNormalization::Operands operands(context);
    const Tensor& x = operands.x;
    char* output = context.output<char>(Out::output, x.shape);
    char* sum = context.output<char>(Out::sum, x.shape);
    if (x.count() == 0) return;  // an empty sum has no address, and would look as if nobody read it
    auto key = cuda::Key("skip_layer_normalization")
                   .type(x.type)
                   .value("width", operands.width)
                   .value("beta", operands.beta.present)
                   .value("bias", operands.bias.present)
                   .value("sum", sum != nullptr);
    if (!operands.skip.present) key.value("skip", false);  // said where they differ from what there was at first, so
    if (rms_) key.value("rms", true);                      // that archives from then keep their keys
    const auto grid = [&](cuda::Tile tile) { return cuda::Grid{cuda::tiles(operands.rows, tile.x)}; };
    kernels.launch(context.stream(), key, grid, x.data, operands.skip.data, operands.gamma.data, operands.beta.data,
                   operands.bias.data, output, sum, epsilon_, static_cast<int64_t>(operands.rows));
  }

 private:
  float epsilon_;
  bool rms_;
};

}  // namespace turbo_onnx
