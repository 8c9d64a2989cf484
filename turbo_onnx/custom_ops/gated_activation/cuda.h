#pragma once

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/gated_activation/operator.h"

namespace turbo_onnx {

class CudaGatedActivation {
 public:
  using Signature = signature::GatedActivation;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::x, In::up};
  static inline int in_place_outputs[] = {Out::output, Out::output};

  explicit CudaGatedActivation(const Signature::Attributes& attributes)
      : activation_(activation_named(attributes.activation, false)), gate_last_(attributes.gate_last != 0) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const GatedActivation::Operands operands(context, gate_last_);
    char* output = context.output<char>(Out::output, operands.shape());
    const auto key = cuda::Key("gated_activation")
                         .type(operands.x.type)
                         .value("width", operands.width)
                         .value("joined", operands.joined)
                         .value("last", gate_last_)
                         .value("bias", operands.bias.present)
                         .value("activation", static_cast<int>(activation_));
    const auto grid = [&](cuda::Tile tile) {
      return cuda::Grid{cuda::tiles(operands.rows, tile.x), cuda::tiles(operands.width, tile.y)};
    };
    kernels.launch(context.stream(), key, grid, operands.x.data, operands.up.data, operands.bias.data, output,
                   static_cast<int64_t>(operands.rows));
  }

 private:
  Activation activation_;
  bool gate_last_;
};

}  // namespace turbo_onnx
