#pragma once

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class BiasGelu {
 public:
  using Signature = signature::BiasGelu;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::x};
  static inline int in_place_outputs[] = {Out::output};

  explicit BiasGelu(const Signature::Attributes& attributes) : tanh_(approximates(attributes)) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor x = context.input(In::x);
    const Tensor bias = context.input(In::bias);
    const size_t count = rows(x, bias);
    float* output = context.output<float>(Out::output, x.shape);
    kernels.bias_gelu(x.as<float>(), bias.as<float>(), output, count, x.last_dimension(), tanh_, context.parallel());
  }

  // Whether Φ is approximated by tanh.
  static bool approximates(const Signature::Attributes& attributes) {
    const bool tanh = attributes.approximate == "tanh";
    require(tanh || attributes.approximate == "none", "approximate is \"", attributes.approximate,
            "\", but must be \"none\" or \"tanh\"");
    return tanh;
  }

  // Checks the operands, and returns how many rows there are.
  static size_t rows(const Tensor& x, const Tensor& bias) {
    require(!x.shape.empty(), "x is a scalar, but must have rows");
    require_vector(bias, "bias", x.last_dimension());
    return x.count(0, x.shape.size() - 1);
  }

 private:
  bool tanh_;
};

}  // namespace turbo_onnx
