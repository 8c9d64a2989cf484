#pragma once

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/rotary_embedding/operator.h"

namespace turbo_onnx {

// The index is on the device and not checked: where it is outside of cos, what is turned of the row is NaN.
class CudaRotaryEmbedding {
 public:
  using Signature = signature::RotaryEmbedding;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::input};
  static inline int in_place_outputs[] = {Out::output};

  explicit CudaRotaryEmbedding(const Signature::Attributes& attributes) : heads_(attributes) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const RotaryEmbedding::Operands operands(context, heads_.all);
    const Tensor& input = operands.input;
    char* output = context.output<char>(Out::output, input.shape);
    const auto key = cuda::Key("rotary_embedding")
                         .type(input.type)
                         .type(operands.cos.type)
                         .value("heads", heads_.all)
                         .value("rotated", heads_.rotated)
                         .value("head", operands.head_size)
                         .value("rotary", operands.rotary_size)
                         .value("interleaved", heads_.interleaved)
                         .value("bias", operands.bias.present)
                         .value("index", operands.index.present);
    // In place and without a bias, the columns behind the rotated heads are what they have to be.
    const bool copies = output != input.data || operands.bias;
    const size_t copied = copies ? (heads_.all - heads_.rotated) * operands.head_size : 0;
    const auto grid = [&](cuda::Tile tile) {
      return cuda::Grid{cuda::tiles(operands.rows, tile.x),
                        cuda::tiles(heads_.rotated, tile.y) + cuda::tiles(copied, tile.z)};
    };
    kernels.launch(context.stream(), key, grid, input.data, operands.bias.data, operands.cos.data, operands.sin.data,
                   operands.index.data, output, static_cast<int64_t>(operands.rows),
                   static_cast<int64_t>(operands.table_rows));
  }

 private:
  RotaryEmbedding::Heads heads_;
};

}  // namespace turbo_onnx
