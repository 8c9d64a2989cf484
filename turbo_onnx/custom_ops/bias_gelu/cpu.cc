#include "custom_ops/bias_gelu/cpu.h"

#include "custom_ops/cpu/activations.h"
#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

template <class Function>
TURBO_INLINE void biased(const float* x, const float* bias, float* y, size_t width, Function gelu) {
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(y + i, gelu(load(x + i) + load(bias + i)));
  if (i < width) store(y + i, gelu(load(x + i, width - i) + load(bias + i, width - i)), width - i);
}

template <class Function>
TURBO_INLINE void plain(const float* x, float* y, size_t count, Function gelu) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, gelu(load(x + i)));
  if (i < count) store(y + i, gelu(load(x + i, count - i)), count - i);
}

template <class Function>
void run(const float* x, const float* bias, float* y, size_t rows, size_t width, Function gelu,
         const Parallel& parallel) {
  for_row_blocks(rows, width, parallel, [&](size_t first, size_t last) {
    if (bias == nullptr) return plain(x + first * width, y + first * width, (last - first) * width, gelu);
    for (size_t r = first; r < last; ++r) biased(x + r * width, bias, y + r * width, width, gelu);
  });
}

}  // namespace

void bias_gelu(const float* x, const float* bias, float* y, size_t rows, size_t width, bool tanh,
               const Parallel& parallel) {
  if (tanh) {
    run(x, bias, y, rows, width, GeluByTanh{}, parallel);
  } else {
    run(x, bias, y, rows, width, Gelu{}, parallel);
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
