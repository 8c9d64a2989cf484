#include "custom_ops/quantize_rows/cpu.h"

#include "custom_ops/cpu/bytes.h"
#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

constexpr float kLevels = 255.0f;
constexpr float kSmallest = 1e-30f;  // rows within a smaller range are zeros: 255 over it may be no float

struct Range {
  float low, high;
  float undefined;  // 0, or NaN where a number is not finite
};

// The smallest range that holds the row and zero.
TURBO_INLINE Range range_of(const float* x, size_t width) {
  const Vec zero(0.0f);
  Vec low = zero, high = zero, undefined = zero;
  const auto include = [&](Vec some) {
    low = min(low, some);
    high = max(high, some);
    undefined = fma(some, zero, undefined);
  };
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) include(load(x + i));
  if (i < width) include(load(x + i, width - i));
  return {-hmax(-low), hmax(high), hsum(undefined)};
}

TURBO_INLINE void quantize_row(const float* x, uint8_t* output, float inverse, int32_t zero, size_t width) {
  const Vec steps(inverse);
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store_bytes(output + i, load(x + i) * steps, zero);
  if (i < width) store_bytes(output + i, load(x + i, width - i) * steps, zero, width - i);
}

}  // namespace

void quantize_rows(const float* x, uint8_t* output, float* scale, uint8_t* zero_point, size_t rows, size_t width,
                   const Parallel& parallel) {
  for_row_blocks(rows, width, parallel, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      const auto [low, high, undefined] = range_of(x + r * width, width);
      const float range = high - low;
      const float inverse = range < kSmallest ? 0.0f : kLevels / range;
      const int32_t zero = __builtin_lrintf(-low * inverse);
      scale[r] = range / kLevels + undefined;
      zero_point[r] = static_cast<uint8_t>(zero);
      quantize_row(x + r * width, output + r * width, inverse, zero, width);
    }
  });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
