#pragma once

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class SkipLayerNormalization {
 public:
  using Signature = signature::SkipLayerNormalization;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::x, In::skip};
  static inline int in_place_outputs[] = {Out::output, Out::sum};

  explicit SkipLayerNormalization(const Signature::Attributes& attributes) : epsilon_(attributes.epsilon) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor x = context.input(In::x);
    const Tensor skip = context.input(In::skip);
    const Tensor gamma = context.input(In::gamma);
    const Tensor beta = context.input(In::beta);
    const Tensor bias = context.input(In::bias);
    require(!x.shape.empty(), "x is a scalar, but must have rows");
    require(x.shape == skip.shape, "x has shape ", x.shape, ", but skip has ", skip.shape);
    const size_t width = x.last_dimension();
    require_vector(gamma, "gamma", width);
    require_vector(beta, "beta", width);
    require_vector(bias, "bias", width);
    float* output = context.output<float>(Out::output, x.shape);
    float* sum = context.output<float>(Out::sum, x.shape);
    kernels.skip_layer_normalization(x.as<float>(), skip.as<float>(), gamma.as<float>(), beta.as<float>(),
                                     bias.as<float>(), epsilon_, output, sum, x.count(0, x.shape.size() - 1), width,
                                     context.parallel());
  }

 private:
  float epsilon_;
};

}  // namespace turbo_onnx
