#pragma once

#include <cstdint>

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/varlen_attention/operator.h"

namespace turbo_onnx {

class CudaVarlenAttention {
 public:
  using Signature = signature::VarlenAttention;
  using Out = Signature::Out;

  explicit CudaVarlenAttention(const Signature::Attributes& attributes) : attributes_(attributes), form_(attributes) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const VarlenAttentionOperands operands(context, form_);
    const Tensor& bias = operands.attention_bias;
    const bool packed = operands.cu_seqlens.present;
    const bool joined = !operands.key.present;
    const bool window = form_.window.by_distance();
    const size_t* strides = operands.bias_strides;
    const bool bias_by_query = bias && bias.shape[2] != 1;
    const bool bias_by_key = bias && (bias.shape[3] != 1 || operands.key_rows == 1);
    require(!bias_by_query || operands.key_rows <= kMostBiasedKeys, "attention_bias has shape ", bias.shape,
            ", but must have at most ", kMostBiasedKeys, " keys");
    char* output = context.output<char>(Out::output, operands.output);
    const auto key = cuda::Key("varlen_attention")
                         .type(operands.query.type)
                         .type(bias ? bias.type : operands.query.type)
                         .value("heads", form_.heads)
                         .value("kv_heads", form_.key_heads)
                         .value("head", operands.head_size)
                         .value("value", operands.value_head_size)
                         .value("joined", joined)
                         .value("by_head", form_.keys_by_head)
                         .value("packed", packed)
                         .value("causal", form_.window.causal())
                         .value("window", window)
                         .value("positions", window && operands.positions.present)
                         .value("softcap", form_.softcap > 0.0f)
                         .value("guard", attributes_.guard != 0)
                         .value("bias", operands.bias.present)
                         .value("attention_bias", bias.present)
                         .value("bias_by_query", bias_by_query)
                         .value("bias_by_key", bias_by_key);
    // Where rows are packed, tiles of rows are at most so many: no tile has rows of two sequences.
    const auto grid = [&](cuda::Tile tile) {
      const uint64_t rows = operands.query_rows;
      const uint64_t tiles =
          packed ? rows / tile.x + operands.sequences : operands.sequences * cuda::tiles(rows, tile.x);
      return cuda::Grid{rows == 0 ? 0 : tiles, form_.heads};
    };
    kernels.launch(context.stream(), key, grid, operands.query.data, operands.key.data, operands.value.data,
                   operands.bias.data, operands.cu_seqlens.data, bias.data, operands.positions.data, output,
                   count(operands.sequences, "sequences"), count(operands.query_rows, "rows of queries"),
                   count(operands.key_rows, "rows of keys"), reach(form_.window.before), reach(form_.window.after),
                   static_cast<int64_t>(strides[0]), static_cast<int64_t>(strides[1]), static_cast<int64_t>(strides[2]),
                   attributes_.scale, form_.softcap);
  }

 private:
  // The kernel counts in 32 bits: rows up to the end of the last tile, and attention biases within one tile.
  static constexpr size_t kMostQueriesOfTile = 512;
  static constexpr size_t kMost = INT32_MAX - kMostQueriesOfTile;
  static constexpr size_t kMostBiasedKeys = INT32_MAX / kMostQueriesOfTile;

  static int32_t count(size_t number, const char* of) {
    require(number <= kMost, "there are ", number, " ", of, ", but must be at most ", kMost);
    return static_cast<int32_t>(number);
  }

  // No two rows are farther apart than there may be rows, so that this is without an end.
  static int32_t reach(size_t bound) { return static_cast<int32_t>(bound < kMost ? bound : kMost); }

  Signature::Attributes attributes_;
  VarlenAttentionForm form_;
};

}  // namespace turbo_onnx
