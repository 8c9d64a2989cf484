// What one run of VarlenAttention is over: its inputs, whose shapes fit each other, and the sizes that follow.
#pragma once

#include "custom_ops/ort/cu_seqlens.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

// Of the operands only shapes are read, so they may be on a device.
struct VarlenAttentionOperands {
  using In = signature::VarlenAttention::In;

  Tensor query, key, value, bias, cu_seqlens, attention_bias;
  size_t heads, head_size, value_head_size;
  size_t sequences;
  size_t query_rows, key_rows;  // of one sequence; of all where there is cu_seqlens
  size_t bias_strides[4] = {};  // elements of attention_bias, by axis: 0 where it broadcasts
  Shape output;

  VarlenAttentionOperands(const Context& context, size_t num_heads)
      : query(context.input(In::query)),
        key(context.input(In::key)),
        value(context.input(In::value)),
        bias(context.input(In::bias)),
        cu_seqlens(context.input(In::cu_seqlens)),
        attention_bias(context.input(In::attention_bias)),
        heads(num_heads) {
    check_rows();
    const size_t whole = query.last_dimension();
    const size_t width = key ? whole : whole / 3;
    const size_t value_width = value ? value.last_dimension() : width;
    require(key ? key.last_dimension() == width : whole == 3 * width, "query has shape ", query.shape,
            key ? " and key another width" : ", whose width is not three times that of a projection");
    require(width % heads == 0 && value_width % heads == 0, "widths ", width, " and ", value_width,
            " are not multiples of num_heads = ", heads);
    head_size = width / heads;
    value_head_size = value_width / heads;
    require_vector(bias, "bias", 2 * width + value_width);
    output = query.shape;
    output.back() = static_cast<int64_t>(value_width);
    if (cu_seqlens) {
      require(!attention_bias, "attention_bias cannot be there together with cu_seqlens");
      sequences = count_sequences(cu_seqlens);
      query_rows = key_rows = query.count(0, 1);
    } else {
      sequences = query.count(0, 1);
      query_rows = query.count(1, 2);
      key_rows = (key ? key : query).count(1, 2);
      if (attention_bias) find_bias_strides();
    }
  }

 private:
  void check_rows() const {
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
  }

  void find_bias_strides() {
    const Shape& shape = attention_bias.shape;
    const size_t full[4] = {sequences, heads, query_rows, key_rows};
    bool fits = shape.size() == 4;
    for (size_t i = 0; fits && i < 4; ++i) fits = shape[i] == 1 || attention_bias.count(i, i + 1) == full[i];
    require(fits, "attention_bias has shape ", shape, ", but must broadcast to [", full[0], ", ", full[1], ", ",
            full[2], ", ", full[3], "]");
    for (size_t i = 0; i < 4; ++i) bias_strides[i] = shape[i] == 1 ? 0 : attention_bias.count(i + 1, 4);
  }
};

}  // namespace turbo_onnx
