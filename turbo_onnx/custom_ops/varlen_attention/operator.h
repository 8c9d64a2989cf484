#pragma once

#include "custom_ops/varlen_attention/operands.h"

namespace turbo_onnx {

class VarlenAttention {
 public:
  using Signature = signature::VarlenAttention;
  using Out = Signature::Out;

  explicit VarlenAttention(const Signature::Attributes& attributes) : attributes_(attributes), form_(attributes) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const VarlenAttentionOperands operands(context, form_);
    const Tensor& query = operands.query;
    const Tensor& key = operands.key;
    const Tensor& value = operands.value;
    if (operands.cu_seqlens) require_cu_seqlens(operands.cu_seqlens, operands.query_rows);
    if (operands.positions) require_ascending(operands.positions, operands.cu_seqlens);

    VarlenAttentionArguments args{};
    args.heads = form_.heads;
    args.key_heads = form_.key_heads;
    args.head_size = operands.head_size;
    args.value_head_size = operands.value_head_size;
    args.scale = attributes_.scale;
    args.softcap = form_.softcap;
    args.guard = attributes_.guard != 0;
    args.window = form_.window;
    args.positions = form_.window.by_distance() ? operands.positions.as<int64_t>() : nullptr;
    args.cu_seqlens = operands.cu_seqlens.as<int32_t>();
    args.batch = operands.sequences;
    args.query_length = operands.query_rows;
    args.key_length = operands.key_rows;
    const size_t* strides = operands.bias_strides;
    args.bias = {operands.attention_bias.as<float>(), strides[0], strides[1], strides[2], strides[3]};

    const size_t key_columns = operands.key_columns, value_columns = operands.value_columns;
    const float* q = query.as<float>();
    const float* b = operands.bias.as<float>();
    args.query = side_by_side(q, query.last_dimension(), operands.head_size, b);
    const float* key_bias = b ? b + key_columns : nullptr;
    const float* value_bias = b ? b + value_columns : nullptr;
    if (form_.keys_by_head) {
      args.key = apart(key, form_.key_heads, key_bias);
      args.value = apart(value, form_.key_heads, value_bias);
    } else {
      args.key = side_by_side(key ? key.as<float>() : q + key_columns, (key ? key : query).last_dimension(),
                              operands.head_size, key_bias);
      args.value = side_by_side(value ? value.as<float>() : q + value_columns, (value ? value : query).last_dimension(),
                                operands.value_head_size, value_bias);
    }
    args.output = context.output<float>(Out::output, operands.output);
    kernels.varlen_attention(args, context.parallel());
  }

 private:
  // Heads in rows of `width` floats.
  static Projected side_by_side(const float* data, size_t width, size_t size, const float* bias) {
    return {data, width, size, width, bias};
  }

  // Heads of a tensor [B, G, L, D].
  static Projected apart(const Tensor& tensor, size_t heads, const float* bias) {
    const size_t size = tensor.last_dimension();
    return {tensor.as<float>(), size, tensor.count(2, 4), heads * size, bias};
  }

  // The kernel trusts that two rows of a sequence are at least as far apart in positions as in rows.
  static void require_ascending(const Tensor& positions, const Tensor& cu_seqlens) {
    const int64_t* at = positions.as<int64_t>();
    const int32_t* bounds = cu_seqlens.as<int32_t>();
    for (size_t b = 0; b + 1 < cu_seqlens.count(); ++b)
      for (int32_t i = bounds[b] + 1; i < bounds[b + 1]; ++i)
        require(at[i] > at[i - 1], "positions has ", at[i], " after ", at[i - 1],
                ", but must be strictly ascending within each sequence");
  }

  Signature::Attributes attributes_;
  VarlenAttentionForm form_;
};

}  // namespace turbo_onnx
