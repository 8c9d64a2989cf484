#include "custom_ops/skip_layer_normalization/cpu.h"

#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

// to = x + skip + bias, where null is none, but for x; returns the sum of the row, or of its squares.
template <bool kSquares>
TURBO_INLINE float add_row(const float* x, const float* skip, const float* bias, float* to, size_t width) {
  const size_t whole = width - width % kLanes;
  const size_t rest = width - whole;
  Vec total(0.0f);
  for (size_t i = 0; i < whole; i += kLanes) {
    Vec value = load(x + i);
    if (skip) value += load(skip + i);
    if (bias) value += load(bias + i);
    total = kSquares ? fma(value, value, total) : total + value;
    if (to) store(to + i, value);
  }
  if (rest) {
    Vec value = load(x + whole, rest);
    if (skip) value += load(skip + whole, rest);
    if (bias) value += load(bias + whole, rest);
    total = kSquares ? fma(value, value, total) : total + value;
    if (to) store(to + whole, value, rest);
  }
  return hsum(total);
}

// out[i] = row[i] / sqrt(squares / width + epsilon) * gamma[i] + beta[i]. A null beta is none. out may be row.
TURBO_INLINE void scale_row(const float* row, float squares, const float* gamma, const float* beta, float epsilon,
                            float* out, size_t width) {
  const size_t whole = width - width % kLanes;
  const size_t rest = width - whole;
  const Vec scale(1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + epsilon));
  for (size_t i = 0; i < whole; i += kLanes) {
    const Vec normal = load(row + i) * scale;
    store(out + i, beta ? fma(normal, load(gamma + i), load(beta + i)) : normal * load(gamma + i));
  }
  if (rest) {
    const Vec scaled = load(row + whole, rest) * scale * load(gamma + whole, rest);
    store(out + whole, beta ? scaled + load(beta + whole, rest) : scaled, rest);
  }
}

template <bool kRms>
TURBO_INLINE void normalize_rows(const float* x, const float* skip, const float* gamma, const float* beta,
                                 const float* bias, float epsilon, float* output, float* sum, size_t rows, size_t width,
                                 const Parallel& parallel) {
  for_row_blocks(rows, width, parallel, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      const size_t at = r * width;
      float* to = sum ? sum + at : skip || bias ? output + at : nullptr;
      const float total = add_row<kRms>(x + at, skip ? skip + at : nullptr, bias, to, width);
      const float* row = to ? to : x + at;
      if (kRms) {
        scale_row(row, total, gamma, beta, epsilon, output + at, width);
      } else {
        normalize_row(row, total, gamma, beta, epsilon, output + at, width);
      }
    }
  });
}

}  // namespace

void skip_layer_normalization(const float* x, const float* skip, const float* gamma, const float* beta,
                              const float* bias, float epsilon, bool rms, float* output, float* sum, size_t rows,
                              size_t width, const Parallel& parallel) {
  if (rms) {
    normalize_rows<true>(x, skip, gamma, beta, bias, epsilon, output, sum, rows, width, parallel);
  } else {
    normalize_rows<false>(x, skip, gamma, beta, bias, epsilon, output, sum, rows, width, parallel);
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
