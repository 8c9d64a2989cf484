// What one run of VarlenAttention is over: its inputs, whose shapes fit each other, and the sizes that follow.
#pragma once

#include "custom_ops/ort/cu_seqlens.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"
#include "custom_ops/varlen_attention/form.h"

namespace turbo_onnx {

// Of the operands only shapes are read, so they may be on a device.
struct VarlenAttentionOperands {
  using In = signature::VarlenAttention::In;

  Tensor query, key, value, bias, cu_seqlens, attention_bias, positions;
  size_t heads, head_size, value_head_size;
  size_t key_columns, value_columns;  // where keys and values begin, in the bias and in Q | K | V
  size_t sequences;
  size_t query_rows, key_rows;  // of one sequence; of all where there is cu_seqlens
  size_t bias_strides[4] = {};  // elements of attention_bias, by axis: 0 where it broadcasts
  Shape output;

  VarlenAttentionOperands(const Context& context, const VarlenAttentionForm& form)
      : query(context.input(In::query)),
        key(context.input(In::key)),
        value(context.input(In::value)),
        bias(context.input(In::bias)),
        cu_seqlens(context.input(In::cu_seqlens)),
        attention_bias(context.input(In::attention_bias)),
        positions(context.input(In::positions)),
        heads(form.heads) {
    const size_t shared = form.key_heads;
    if (form.keys_by_head) {
      find_sizes_of_heads(shared);
    } else {
      find_sizes_of_rows(shared);
    }
    key_columns = heads * head_size;
    value_columns = key_columns + shared * head_size;
    require_vector(bias, "bias", value_columns + shared * value_head_size);
    output = query.shape;
    output.back() = static_cast<int64_t>(heads * value_head_size);
    require(cu_seqlens || !positions, "positions cannot be there without cu_seqlens");
    require_vector(positions, "positions", query.count(0, 1));
    if (cu_seqlens) {
      require(!attention_bias, "attention_bias cannot be there together with cu_seqlens");
      sequences = count_sequences(cu_seqlens);
      query_rows = key_rows = query.count(0, 1);
    } else {
      sequences = query.count(0, 1);
      query_rows = query.count(1, 2);
      key_rows = form.keys_by_head ? key.count(2, 3) : (key ? key : query).count(1, 2);
      if (attention_bias) find_bias_strides();
    }
  }

 private:
  void find_sizes_of_heads(size_t shared) {
    require(key && value && !cu_seqlens, "keys_by_head is 1, but key and value must be there, and cu_seqlens must not");
    const Shape &of_query = query.shape, &of_key = key.shape, &of_value = value.shape;
    bool fits = of_query.size() == 3 && of_key.size() == 4 && of_value.size() == 4;
    for (size_t i = 0; fits && i < 3; ++i) fits = of_key[i] == of_value[i];
    require(fits && of_key[0] == of_query[0] && key.count(1, 2) == shared, "query, key and value have shapes ",
            of_query, ", ", of_key, ", ", of_value, ", but must be [B, S, H*D], [B, ", shared, ", L, D] and [B, ",
            shared, ", L, Dv] as keys_by_head is 1");
    head_size = key.last_dimension();
    value_head_size = value.last_dimension();
    require(query.last_dimension() == heads * head_size, "query has shape ", of_query, ", but ", heads,
            " heads like those of key, which has ", of_key, ", are ", heads * head_size, " columns");
  }

  void find_sizes_of_rows(size_t shared) {
    check_rows();
    const size_t whole = query.last_dimension();
    head_size = whole / (key ? heads : heads + 2 * shared);
    value_head_size = value ? value.last_dimension() / shared : head_size;
    if (key) {
      const size_t width = key.last_dimension(), value_width = value.last_dimension();
      require(whole % heads == 0 && width % shared == 0 && value_width % shared == 0, "widths ", whole, ", ", width,
              " and ", value_width, " are not multiples of ", heads, ", ", shared, " and ", shared, " heads");
      require(width == shared * head_size, "query has shape ", query.shape, " and key ", key.shape,
              ", whose heads have another width");
    } else {
      require(whole == (heads + 2 * shared) * head_size, "query has shape ", query.shape,
              ", whose width is not that of ", heads, " heads of queries and ", shared, " of keys and of values");
    }
  }

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
