#pragma once

#include "custom_ops/varlen_attention/operands.h"

namespace turbo_onnx {

class VarlenAttention {
 public:
  using Signature = signature::VarlenAttention;
  using Out = Signature::Out;

  explicit VarlenAttention(const Signature::Attributes& attributes)
      : attributes_(attributes), heads_(heads(attributes)) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const VarlenAttentionOperands operands(context, heads_);
    const Tensor& query = operands.query;
    const Tensor& key = operands.key;
    const Tensor& value = operands.value;
    if (operands.cu_seqlens) require_cu_seqlens(operands.cu_seqlens, operands.query_rows);

    VarlenAttentionArguments args{};
    args.heads = heads_;
    args.head_size = operands.head_size;
    args.value_head_size = operands.value_head_size;
    args.scale = attributes_.scale;
    args.causal = attributes_.causal != 0;
    args.guard = attributes_.guard != 0;
    args.cu_seqlens = operands.cu_seqlens.as<int32_t>();
    args.batch = operands.sequences;
    args.query_length = operands.query_rows;
    args.key_length = operands.key_rows;
    const size_t* strides = operands.bias_strides;
    args.bias = {operands.attention_bias.as<float>(), strides[0], strides[1], strides[2], strides[3]};

    const size_t width = heads_ * operands.head_size;
    const float* q = query.as<float>();
    const float* b = operands.bias.as<float>();
    args.query = {q, query.last_dimension(), b};
    args.key = {key ? key.as<float>() : q + width, (key ? key : query).last_dimension(), b ? b + width : nullptr};
    args.value = {value ? value.as<float>() : q + 2 * width, (value ? value : query).last_dimension(),
                  b ? b + 2 * width : nullptr};
    args.output = context.output<float>(Out::output, operands.output);
    kernels.varlen_attention(args, context.parallel());
  }

  // The number of heads, checked.
  static size_t heads(const Signature::Attributes& attributes) {
    require(attributes.num_heads > 0, "num_heads is ", attributes.num_heads, ", but must be positive");
    return static_cast<size_t>(attributes.num_heads);
  }

 private:
  Signature::Attributes attributes_;
  size_t heads_;
};

}  // namespace turbo_onnx
