#pragma once

#include "custom_ops/ort/cu_seqlens.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class VarlenAttention {
 public:
  using Signature = signature::VarlenAttention;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit VarlenAttention(const Signature::Attributes& attributes) : attributes_(attributes) {
    require(attributes.num_heads > 0, "num_heads is ", attributes.num_heads, ", but must be positive");
  }

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor query = context.input(In::query);
    const Tensor key = context.input(In::key);
    const Tensor value = context.input(In::value);
    const Tensor bias = context.input(In::bias);
    const Tensor cu_seqlens = context.input(In::cu_seqlens);

    VarlenAttentionArguments args{};
    args.heads = static_cast<size_t>(attributes_.num_heads);
    args.scale = attributes_.scale;
    args.causal = attributes_.causal != 0;
    args.guard = attributes_.guard != 0;

    const size_t rank = cu_seqlens ? 2 : 3;
    require(query.shape.size() == rank, "query has shape ", query.shape, ", but must have rank ", rank,
            cu_seqlens ? " as there is cu_seqlens" : " as there is no cu_seqlens");
    require(bool(key) == bool(value), "key and value must both be there, or neither");
    const Tensor& keys = key ? key : query;
    const Tensor& values = value ? value : query;
    require(keys.shape.size() == rank && values.shape.size() == rank, "key has shape ", keys.shape, " and value ",
            values.shape, ", but query has ", query.shape);
    for (size_t i = 0; i + 1 < rank; ++i) {
      require(values.shape[i] == keys.shape[i] && (keys.shape[i] == query.shape[i] || (i == 1 && rank == 3)),
              "query, key and value have shapes ", query.shape, ", ", keys.shape, ", ", values.shape);
    }
    const size_t whole = query.last_dimension();
    const size_t width = key ? whole : whole / 3;
    const size_t value_width = value ? value.last_dimension() : width;
    require(key ? key.last_dimension() == width : whole == 3 * width, "query has shape ", query.shape,
            key ? " and key another width" : ", whose width is not three times that of a projection");
    require(width % args.heads == 0 && value_width % args.heads == 0, "widths ", width, " and ", value_width,
            " are not multiples of num_heads = ", args.heads);
    args.head_size = width / args.heads;
    args.value_head_size = value_width / args.heads;
    require_vector(bias, "bias", 2 * width + value_width);

    const float* q = query.as<float>();
    const float* b = bias.as<float>();
    args.query = {q, whole, b};
    args.key = {key ? key.as<float>() : q + width, keys.last_dimension(), b ? b + width : nullptr};
    args.value = {value ? value.as<float>() : q + 2 * width, values.last_dimension(), b ? b + 2 * width : nullptr};

    const Tensor attention_bias = context.input(In::attention_bias);
    if (cu_seqlens) {
      require(!attention_bias, "attention_bias cannot be there together with cu_seqlens");
      args.cu_seqlens = cu_seqlens.as<int32_t>();
      args.batch = require_cu_seqlens(cu_seqlens, query.count(0, 1));
    } else {
      args.batch = query.count(0, 1);
      args.query_length = query.count(1, 2);
      args.key_length = keys.count(1, 2);
      if (attention_bias) read_attention_bias(attention_bias, args);
    }
    Shape output_shape = query.shape;
    output_shape.back() = static_cast<int64_t>(value_width);
    args.output = context.output<float>(Out::output, output_shape);
    kernels.varlen_attention(args, context.parallel());
  }

 private:
  static void read_attention_bias(const Tensor& bias, VarlenAttentionArguments& args) {
    const size_t full[4] = {args.batch, args.heads, args.query_length, args.key_length};
    bool fits = bias.shape.size() == 4;
    for (size_t i = 0; fits && i < 4; ++i) fits = bias.shape[i] == 1 || bias.count(i, i + 1) == full[i];
    require(fits, "attention_bias has shape ", bias.shape, ", but must broadcast to [", full[0], ", ", full[1], ", ",
            full[2], ", ", full[3], "]");
    const auto stride = [&](size_t axis) { return bias.shape[axis] == 1 ? 0 : bias.count(axis + 1, 4); };
    args.bias = {bias.as<float>(), stride(0), stride(1), stride(2), stride(3)};
  }

  Signature::Attributes attributes_;
};

}  // namespace turbo_onnx
