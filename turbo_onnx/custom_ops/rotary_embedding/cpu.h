#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

struct RotaryEmbeddingArguments {
  const float* input;  // rows of heads * head_size
  const float* bias;   // of one row; null is none
  const float* cos;    // rows of rotary_size
  const float* sin;
  size_t table_rows;
  const int64_t*
      index;      // the row of cos and sin for each row, all in [0, table_rows); null: row r takes r % table_rows
  float* output;  // may be input
  size_t rows, heads, rotated_heads, head_size;
  size_t rotary_size;  // even, and at most head_size
  bool interleaved;    // pairs are neighbours, else they are half of rotary_size apart
};

// output = input + bias, with the first rotary_size columns of the first rotated_heads heads turned.
using RotaryEmbeddingKernel = void(const RotaryEmbeddingArguments& arguments, const Parallel& parallel);

namespace TURBO_ISA {
RotaryEmbeddingKernel rotary_embedding;
}

}  // namespace turbo_onnx
