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

  explicit SkipLayerNormalization(const Signature::Attributes& attributes)
      : epsilon_(attributes.epsilon), rms_(subtracts_no_mean(attributes)) {}

  // Whether rows are divided by the root of their mean square.
  static bool subtracts_no_mean(const Signature::Attributes& attributes) {
    require(attributes.rms == 0 || attributes.rms == 1, "rms is ", attributes.rms, ", but must be 0 or 1");
    return attributes.rms == 1;
  }

  // The inputs of one run, whose shapes fit each other, and their sizes.
  struct Operands {
    Tensor x, skip, gamma, beta, bias;
    size_t rows, width;

    explicit Operands(const Context& context)
        : x(context.input(In::x)),
          skip(context.input(In::skip)),
          gamma(context.input(In::gamma)),
          beta(context.input(In::beta)),
          bias(context.input(In::bias)) {
      require(!x.shape.empty(), "x is a scalar, but must have rows");
      require(!skip.present || x.shape == skip.shape, "x has shape ", x.shape, ", but skip has ", skip.shape);
      rows = x.count(0, x.shape.size() - 1);
      width = x.last_dimension();
      require_vector(gamma, "gamma", width);
      require_vector(beta, "beta", width);
      require_vector(bias, "bias", width);
    }
  };

  void compute(const Context& context, const Kernels& kernels) const {
    const Operands operands(context);
    float* output = context.output<float>(Out::output, operands.x.shape);
    float* sum = context.output<float>(Out::sum, operands.x.shape);
    kernels.skip_layer_normalization(operands.x.as<float>(), operands.skip.as<float>(), operands.gamma.as<float>(),
                                     operands.beta.as<float>(), operands.bias.as<float>(), epsilon_, rms_, output, sum,
                                     operands.rows, operands.width, context.parallel());
  }

 private:
  float epsilon_;
  bool rms_;
};

}  // namespace turbo_onnx
