#include "custom_ops/skip_layer_normalization/cpu.h"

#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

// to = x + skip + bias; returns the sum of the row.
TURBO_INLINE float add_row(const float* x, const float* skip, const float* bias, float* to, size_t width) {
  const size_t whole = width - width % kLanes;
  const size_t rest = width - whole;
  Vec total(0.0f);
  for (size_t i = 0; i < whole; i += kLanes) {
    Vec value = load(x + i) + load(skip + i);
    if (bias) value += load(bias + i);
    total += value;
    store(to + i, value);
  }
  if (rest) {
    Vec value = load(x + whole, rest) + load(skip + whole, rest);
    if (bias) value += load(bias + whole, rest);
    total += value;
    store(to + whole, value, rest);
  }
  return hsum(total);
}

}  // namespace

void skip_layer_normalization(const float* x, const float* skip, const float* gamma, const float* beta,
                              const float* bias, float epsilon, float* output, float* sum, size_t rows, size_t width,
                              const Parallel& parallel) {
  for_row_blocks(rows, width, parallel, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      const size_t at = r * width;
      float* row = (sum ? sum : output) + at;
      const float total = add_row(x + at, skip + at, bias, row, width);
      normalize_row(row, total, gamma, beta, epsilon, output + at, width);
    }
  });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
