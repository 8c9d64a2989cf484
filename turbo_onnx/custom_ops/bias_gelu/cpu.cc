#include "custom_ops/bias_gelu/cpu.h"

#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

struct Exact {
  TURBO_INLINE Vec operator()(Vec x) const {
    const Vec half = x * Vec(0.5f);
    return fma(half, erf(x * Vec(0.70710678f)), half);
  }
};

// Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
struct ByTanh {
  TURBO_INLINE Vec operator()(Vec x) const {
    const Vec half = x * Vec(0.5f);
    const Vec cubic = fma(x * x * x, Vec(0.044715f), x);
    return fma(half, tanh(cubic * Vec(0.79788456f)), half);
  }
};

template <class Gelu>
TURBO_INLINE void biased(const float* x, const float* bias, float* y, size_t width, Gelu gelu) {
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(y + i, gelu(load(x + i) + load(bias + i)));
  if (i < width) store(y + i, gelu(load(x + i, width - i) + load(bias + i, width - i)), width - i);
}

template <class Gelu>
TURBO_INLINE void plain(const float* x, float* y, size_t count, Gelu gelu) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, gelu(load(x + i)));
  if (i < count) store(y + i, gelu(load(x + i, count - i)), count - i);
}

template <class Gelu>
void run(const float* x, const float* bias, float* y, size_t rows, size_t width, Gelu gelu, const Parallel& parallel) {
  for_row_blocks(rows, width, parallel, [&](size_t first, size_t last) {
    if (bias == nullptr) return plain(x + first * width, y + first * width, (last - first) * width, gelu);
    for (size_t r = first; r < last; ++r) biased(x + r * width, bias, y + r * width, width, gelu);
  });
}

}  // namespace

void bias_gelu(const float* x, const float* bias, float* y, size_t rows, size_t width, bool tanh,
               const Parallel& parallel) {
  if (tanh) {
    run(x, bias, y, rows, width, ByTanh{}, parallel);
  } else {
    run(x, bias, y, rows, width, Exact{}, parallel);
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
