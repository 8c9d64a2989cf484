#pragma once

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/embed_layer_normalization/operator.h"

namespace turbo_onnx {

// Ids are on the device and not checked: one that is outside its table makes its token's row NaN.
class CudaEmbedLayerNormalization {
 public:
  using Signature = signature::EmbedLayerNormalization;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit CudaEmbedLayerNormalization(const Signature::Attributes& attributes) : epsilon_(attributes.epsilon) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const EmbedLayerNormalization::Operands operands(context);
    const auto& [word, token_type, position, gamma, beta, output_shape, tokens, width] = operands;
    char* output = context.output<char>(Out::output, output_shape);
    cuda::Key key("embed_layer_normalization");
    key.type(word.table.type);
    for (const auto* lookup : {&word, &token_type, &position}) {
      if (*lookup) key.type(lookup->ids.type);
    }
    key.value("width", width)
        .value("token_type", token_type.table.present)
        .value("position", position.table.present)
        .value("beta", beta.present);
    const auto grid = [&rows = tokens](cuda::Tile tile) { return cuda::Grid{cuda::tiles(rows, tile.x)}; };
    kernels.launch(context.stream(), key, grid, word.ids.data, token_type.ids.data, position.ids.data, word.table.data,
                   token_type.table.data, position.table.data, gamma.data, beta.data, output, epsilon_,
                   static_cast<int64_t>(tokens), word.rows(), token_type.rows(), position.rows());
  }

 private:
  float epsilon_;
};

}  // namespace turbo_onnx
