#include "custom_ops/dequantize_rows/cpu.h"

#include "custom_ops/cpu/activations.h"
#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

TURBO_INLINE BitLanes load_integers(const int32_t* p) {
  BitLanes r;
  std::memcpy(&r, p, sizeof(r));
  return r;
}

// The lanes beyond `count` are zero.
TURBO_INLINE BitLanes load_integers(const int32_t* p, size_t count) {
  BitLanes r{};
  std::memcpy(&r, p, count * sizeof(int32_t));
  return r;
}

TURBO_INLINE Vec as_floats(BitLanes whole) { return Vec(__builtin_convertvector((IntLanes)whole, FloatLanes)); }

template <bool kBiased, class Function>
TURBO_INLINE void row(const int32_t* x, float scale, uint32_t zero, QuantizedColumns columns, Function activation,
                      float* output, size_t width) {
  const Vec scales(scale);
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec steps = as_floats(load_integers(x + i) - zero * load_integers(columns.sums + i));
    const Vec scaled = steps * load(columns.scale + i) * scales;
    store(output + i, activation(kBiased ? scaled + load(columns.bias + i) : scaled));
  }
  if (const size_t rest = width - i) {
    const Vec steps = as_floats(load_integers(x + i, rest) - zero * load_integers(columns.sums + i, rest));
    const Vec scaled = steps * load(columns.scale + i, rest) * scales;
    store(output + i, activation(kBiased ? scaled + load(columns.bias + i, rest) : scaled), rest);
  }
}

}  // namespace

void dequantize_rows(const int32_t* x, const float* scale, const uint8_t* zero_point, QuantizedColumns columns,
                     Activation activation, float* output, size_t rows, size_t width, const Parallel& parallel) {
  with(activation, [&](auto function) {
    for_row_blocks(rows, 2 * width, parallel, [&](size_t first, size_t last) {
      for (size_t r = first; r < last; ++r) {
        const int32_t* from = x + r * width;
        float* to = output + r * width;
        if (columns.bias == nullptr) {
          row<false>(from, scale[r], zero_point[r], columns, function, to, width);
        } else {
          row<true>(from, scale[r], zero_point[r], columns, function, to, width);
        }
      }
    });
  });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
