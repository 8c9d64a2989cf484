#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// The heads of float32 tokens: side by side in rows, or one after the other in each sequence. A null bias is none; that
// of dimension d of head h is at h * head_size + d.
struct Projected {
  const float* data;
  size_t stride;       // floats from a token to the next, for one head
  size_t head_stride;  // floats from a head to the next, for one token
  size_t width;        // floats that each token of the sequences before takes, for all heads
  const float* bias;

  // The first token of a head in a sequence that has `before` tokens before it.
  const float* head(size_t before, size_t head) const { return data + before * width + head * head_stride; }

  const float* bias_of(size_t head, size_t head_size) const { return bias ? bias + head * head_size : nullptr; }
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
  Projected query, key, value;
  const int32_t* cu_seqlens;  // [batch + 1], ascending from 0, of queries and keys alike; null for the dense form
  size_t batch;
  size_t query_length, key_length;  // of every sequence, in the dense form
  size_t heads, key_heads;          // of queries, and of keys and values: the first is a multiple of the second
  size_t head_size, value_head_size;
  float scale;
  float softcap;  // scaled scores s are softcap * tanh(s / softcap); 0: they are s
  bool guard;     // rows whose softmax is NaN give zeros
  Window window;
  // Where each row stands in its sequence, strictly ascending. Null: query i of a sequence with S queries and L keys
  // stands at i + L - S, and key j at j. Only with cu_seqlens.
  const int64_t* positions;
  AttentionBias bias;
  float* output;  // rows of heads * value_head_size
};

// output = softmax(scale * query key^T + bias) value, for each sequence and head; with softcap, if there is one.
using VarlenAttentionKernel = void(const VarlenAttentionArguments& arguments, const Parallel& parallel);

namespace TURBO_ISA {
VarlenAttentionKernel varlen_attention;
}

}  // namespace turbo_onnx
