// Rotary positions. Both columns of a pair are read before one is written, so the output may be the input.
#include "custom_ops/rotary_embedding/cpu.h"

#include <cstring>

#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

struct Plain {
  TURBO_INLINE Vec operator()(const float* x, const float*, size_t i) const { return load(x + i); }
  TURBO_INLINE Vec operator()(const float* x, const float*, size_t i, size_t count) const { return load(x + i, count); }
};

struct Biased {
  TURBO_INLINE Vec operator()(const float* x, const float* bias, size_t i) const {
    return load(x + i) + load(bias + i);
  }
  TURBO_INLINE Vec operator()(const float* x, const float* bias, size_t i, size_t count) const {
    return load(x + i, count) + load(bias + i, count);
  }
};

// Columns i and i + half of one head, for all i < half.
template <class Load>
TURBO_INLINE void turn_halves(const float* x, const float* bias, const float* cos, const float* sin, float* y,
                              size_t half, Load loaded) {
  size_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec a = loaded(x, bias, i), b = loaded(x, bias, half + i);
    store(y + i, fma(a, load(cos + i), -(b * load(sin + i))));
    store(y + half + i, fma(b, load(cos + half + i), a * load(sin + half + i)));
  }
  if (i < half) {
    const size_t rest = half - i;
    const Vec a = loaded(x, bias, i, rest), b = loaded(x, bias, half + i, rest);
    store(y + i, fma(a, load(cos + i, rest), -(b * load(sin + i, rest))), rest);
    store(y + half + i, fma(b, load(cos + half + i, rest), a * load(sin + half + i, rest)), rest);
  }
}

// Columns 2i and 2i + 1 of one head; `count` is even, as is the number of lanes.
template <class Load>
TURBO_INLINE void turn_neighbours(const float* x, const float* bias, const float* cos, const float* sin, float* y,
                                  size_t count, Load loaded) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec a = loaded(x, bias, i);
    store(y + i, fma(a, load(cos + i), even_lanes_negated(pairs_swapped(a)) * load(sin + i)));
  }
  if (i < count) {
    const size_t rest = count - i;
    const Vec a = loaded(x, bias, i, rest);
    store(y + i, fma(a, load(cos + i, rest), even_lanes_negated(pairs_swapped(a)) * load(sin + i, rest)), rest);
  }
}

template <class Load>
TURBO_INLINE void copy(const float* x, const float* bias, float* y, size_t count, Load loaded) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, loaded(x, bias, i));
  if (i < count) store(y + i, loaded(x, bias, i, count - i), count - i);
}

TURBO_INLINE void copy(const float* x, const float*, float* y, size_t count, Plain) {
  if (x != y && count > 0) std::memcpy(y, x, count * sizeof(float));
}

template <bool kInterleaved, class Load>
TURBO_INLINE void turn_row(const RotaryEmbeddingArguments& args, size_t row, Load loaded) {
  const size_t width = args.heads * args.head_size;
  const size_t place = args.index ? static_cast<size_t>(args.index[row]) : row % args.table_rows;
  const float* cos = args.cos + place * args.rotary_size;
  const float* sin = args.sin + place * args.rotary_size;
  const float* x = args.input + row * width;
  const float* bias = args.bias;
  float* y = args.output + row * width;
  size_t column = 0;
  for (size_t head = 0; head < args.rotated_heads; ++head, column += args.head_size) {
    const float* head_bias = bias ? bias + column : nullptr;
    if (kInterleaved) {
      turn_neighbours(x + column, head_bias, cos, sin, y + column, args.rotary_size, loaded);
    } else {
      turn_halves(x + column, head_bias, cos, sin, y + column, args.rotary_size / 2, loaded);
    }
    const size_t still = column + args.rotary_size;
    copy(x + still, bias ? bias + still : nullptr, y + still, args.head_size - args.rotary_size, loaded);
  }
  copy(x + column, bias ? bias + column : nullptr, y + column, width - column, loaded);
}

template <bool kInterleaved, class Load>
void run(const RotaryEmbeddingArguments& args, const Parallel& parallel, Load loaded) {
  for_row_blocks(args.rows, args.heads * args.head_size, parallel, [&](size_t first, size_t last) {
    for (size_t row = first; row < last; ++row) turn_row<kInterleaved>(args, row, loaded);
  });
}

}  // namespace

void rotary_embedding(const RotaryEmbeddingArguments& args, const Parallel& parallel) {
  if (args.interleaved) {
    args.bias ? run<true>(args, parallel, Biased{}) : run<true>(args, parallel, Plain{});
  } else {
    args.bias ? run<false>(args, parallel, Biased{}) : run<false>(args, parallel, Plain{});
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
