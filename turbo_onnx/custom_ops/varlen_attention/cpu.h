#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// Rows of float32 tokens; column h * head_size + d is dimension d of head h. A null bias is none.
struct ProjectedRows {
  const float* data;
  size_t stride;  // floats from one row to the next
  const float* bias;
};

// How many positions before and after its own a query sees. Causal attention sees none after it.
struct Window {
  static constexpr size_t kUnbounded = SIZE_MAX;

  size_t before, after;

  bool causal() const { return before == kUnbounded && after == 0; }
  // Whether distances decide what a query sees, and not the order of rows alone.
  bool by_distance() const { return before != kUnbounded || (after != kUnbounded && after != 0); }
};

// A float bias for the scores of [batch, head, query, key]; a stride of 0 broadcasts. Null data is none.
struct AttentionBias {
  const float* data;
  size_t batch_stride, head_stride, query_stride, key_stride;
};

struct VarlenAttentionArguments {
  ProjectedRows query, key, value;
  const int32_t* cu_seqlens;  // [batch + 1], ascending from 0, of queries and keys alike; null for the dense form
  size_t batch;
  size_t query_length, key_length;  // of every sequence, in the dense form
  size_t heads, key_heads;          // of queries, and of keys and values: the first is a multiple of the second
  size_t head_size, value_head_size;
  float scale;
  bool guard;  // rows whose softmax is NaN give zeros
  Window window;
  // Where each row stands in its sequence, strictly ascending. Null: query i of a sequence with S queries and L keys
  // stands at i + L - S, and key j at j. Only with cu_seqlens.
  const int64_t* positions;
  AttentionBias bias;
  float* output;  // rows of heads * value_head_size
};

// output = softmax(scale * query key^T + bias) value, for each sequence and head.
using VarlenAttentionKernel = void(const VarlenAttentionArguments& arguments, const Parallel& parallel);

namespace TURBO_ISA {
VarlenAttentionKernel varlen_attention;
}

}  // namespace turbo_onnx
