#pragma once

#include "custom_ops/ort/activation.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class GatedActivation {
 public:
  using Signature = signature::GatedActivation;
  using In = Signature::In;
  using Out = Signature::Out;
  // A joined x is never taken over: its shape is another one.
  static inline int in_place_inputs[] = {In::x, In::up};
  static inline int in_place_outputs[] = {Out::output, Out::output};

  explicit GatedActivation(const Signature::Attributes& attributes)
      : activation_(activation_named(attributes.activation, false)), gate_last_(attributes.gate_last != 0) {}

  // The inputs of one run, whose shapes fit each other, and their sizes.
  struct Operands {
    Tensor x, up, bias;
    bool joined;
    size_t rows, width;

    Operands(const Context& context, bool gate_last)
        : x(context.input(In::x)), up(context.input(In::up)), bias(context.input(In::bias)), joined(!up) {
      require(!x.shape.empty(), "x is a scalar, but must have rows");
      require(joined || !gate_last, "gate_last is 1, but up is given, so that x is the gate");
      require(joined || x.shape == up.shape, "x has shape ", x.shape, ", but up has ", up.shape);
      width = x.last_dimension();
      require(!joined || width % 2 == 0, "x has shape ", x.shape, ", but must have two halves where up is not given");
      if (joined) width /= 2;
      require_vector(bias, "bias", 2 * width);
      rows = x.count(0, x.shape.size() - 1);
    }

    Shape shape() const {
      Shape result = x.shape;
      result.back() = static_cast<int64_t>(width);
      return result;
    }
  };

  void compute(const Context& context, const Kernels& kernels) const {
    const Operands operands(context, gate_last_);
    const size_t width = operands.width;
    float* output = context.output<float>(Out::output, operands.shape());
    const float* x = operands.x.as<float>();
    const float* bias = operands.bias.as<float>();
    GatedOperand gate{x, bias};
    GatedOperand up{operands.joined ? x + width : operands.up.as<float>(), bias == nullptr ? nullptr : bias + width};
    if (gate_last_) std::swap(gate, up);
    kernels.gated_activation(gate, up, operands.joined ? 2 * width : width, output, operands.rows, width, activation_,
                             context.parallel());
  }

 private:
  Activation activation_;
  bool gate_last_;
};

}  // namespace turbo_onnx
