#include "custom_ops/segment_pooling/cpu.h"

#include <limits>

#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

constexpr size_t kColumns = 128;   // of one item: about 64 KB for a sequence of 128 rows
constexpr size_t kRowsInSum = 64;  // rows that are added up before they join the total, which keeps rounding small

// max that is NaN where either is.
TURBO_INLINE Vec max_or_nan(Vec a, Vec b) {
  const IntLanes undefined = a.v != a.v;
  return Vec((FloatLanes)(((IntLanes)a.v & undefined) | ((IntLanes)max(a, b).v & ~undefined)));
}

// Columns of up to one vector, over rows `stride` floats apart.
Vec total(const float* rows, size_t stride, size_t count, size_t columns) {
  Vec all(0.0f);
  for (size_t first = 0; first < count; first += kRowsInSum) {
    Vec some(0.0f);
    const size_t last = first + kRowsInSum < count ? first + kRowsInSum : count;
    for (size_t r = first; r < last; ++r) some += load(rows + r * stride, columns);
    all += some;
  }
  return all;
}

Vec largest(const float* rows, size_t stride, size_t count, size_t columns) {
  Vec most(-std::numeric_limits<float>::infinity());
  for (size_t r = 0; r < count; ++r) most = max_or_nan(most, load(rows + r * stride, columns));
  return most;
}

}  // namespace

void segment_pooling(const float* rows, const int32_t* cu_seqlens, size_t sequences, size_t width, Pooling pooling,
                     float* output, const Parallel& parallel) {
  const size_t blocks = (width + kColumns - 1) / kColumns;
  parallel(sequences * blocks, [&](size_t item) {
    const size_t sequence = item / blocks;
    const size_t first = item % blocks * kColumns;
    const size_t last = first + kColumns < width ? first + kColumns : width;
    const size_t count = static_cast<size_t>(cu_seqlens[sequence + 1] - cu_seqlens[sequence]);
    const float* from = rows + static_cast<size_t>(cu_seqlens[sequence]) * width;
    float* to = output + sequence * width;
    const Vec divisor(static_cast<float>(count == 0 ? 1 : count));
    for (size_t c = first; c < last; c += kLanes) {
      const size_t columns = last - c < kLanes ? last - c : kLanes;
      Vec pooled;
      switch (pooling) {
        case Pooling::kMax:
          pooled = largest(from + c, width, count, columns);
          break;
        case Pooling::kFirst:
          pooled = count == 0 ? Vec(0.0f) : load(from + c, columns);
          break;
        case Pooling::kSum:
          pooled = total(from + c, width, count, columns);
          break;
        case Pooling::kMean:
          pooled = total(from + c, width, count, columns) / divisor;
          break;
      }
      store(to + c, pooled, columns);
    }
  });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
