#include "custom_ops/quantized_mat_mul/cpu.h"

#include "custom_ops/cpu/activations.h"
#include "custom_ops/cpu/bytes.h"
#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/scratch.h"
#include "custom_ops/cpu/sizes.h"
#include "custom_ops/cpu/stream.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

constexpr float kLevels = 255.0f;
constexpr float kSmallest = 1e-30f;  // rows within a smaller range are zeros: 255 over it may be no float

constexpr size_t kChunk = size_t{1} << 20;  // bytes of rows that are quantized before they are multiplied
constexpr size_t kMostRows = 32;            // of an item
constexpr size_t kMostSums = 4096;          // of an item: 16 KB
constexpr size_t kItem = size_t{1} << 16;   // bytes of the weight for an item of few rows
constexpr size_t kShared = 4 * kItem;       // for one of many, since the next items read them, too
constexpr size_t kLarge = size_t{1} << 23;  // bytes of an output that lies in no near cache when it is read

// ---- rows as bytes

struct Range {
  float low, high;
  float undefined;  // 0, or NaN where a number is not finite
};

// The smallest range that holds the row and zero.
TURBO_INLINE Range range_of(const float* x, size_t width) {
  constexpr size_t kChains = 4;  // of operations that wait for each other
  const Vec zero(0.0f);
  Vec low[kChains], high[kChains], undefined[kChains];
  for (size_t c = 0; c < kChains; ++c) low[c] = high[c] = undefined[c] = zero;
  const auto include = [&](size_t chain, Vec some) {
    low[chain] = min(low[chain], some);
    high[chain] = max(high[chain], some);
    undefined[chain] = fma(some, zero, undefined[chain]);
  };
  size_t i = 0;
  for (; i + kChains * kLanes <= width; i += kChains * kLanes) {
    for (size_t c = 0; c < kChains; ++c) include(c, load(x + i + c * kLanes));
  }
  for (; i + kLanes <= width; i += kLanes) include(0, load(x + i));
  if (i < width) include(0, load(x + i, width - i));
  for (size_t c = 1; c < kChains; ++c) {
    low[0] = min(low[0], low[c]);
    high[0] = max(high[0], high[c]);
    undefined[0] += undefined[c];
  }
  return {-hmax(-low[0]), hmax(high[0]), hsum(undefined[0])};
}

// Writes the bytes of a row into its lines of tiles, which are `step` bytes apart.
TURBO_INLINE void quantize_row(const float* x, uint8_t* lines, size_t step, float inverse, int32_t zero, size_t width) {
  const Vec steps(inverse);
  size_t k = 0;
  for (; k + kTileDepth <= width; k += kTileDepth, lines += step) {
    Vec numbers[kTileDepth / kLanes];
    for (size_t i = 0; i < kTileDepth / kLanes; ++i) numbers[i] = load(x + k + i * kLanes) * steps;
    store_line_of_bytes(lines, numbers, zero);
  }
  const size_t rest = width - k;
  if (rest == 0) return;
  size_t i = 0;
  for (; i + kLanes <= rest; i += kLanes) store_bytes(lines + i, load(x + k + i) * steps, zero);
  if (i < rest) store_bytes(lines + i, load(x + k + i, rest - i) * steps, zero, rest - i);
  std::memset(lines + rest, 0, kTileDepth - rest);
}

// Quantized rows, in scratch memory.
struct Rows {
  float* scale;
  uint32_t* zero_point;
  uint8_t* tiles;
  size_t depth;  // a multiple of 64

  Rows(size_t most, size_t width) : depth(round_up(width, kTileDepth)) {
    const size_t numbers = round_up(most, kTileRows);
    scale = scratch(2 * numbers + (numbers * depth + kTileBytes) / sizeof(float));
    zero_point = reinterpret_cast<uint32_t*>(scale + numbers);
    tiles = reinterpret_cast<uint8_t*>(scale + 2 * numbers);
  }

  void quantize(const float* x, size_t rows, size_t width, const Parallel& parallel) {
    for_row_blocks(rows, width, parallel, [&](size_t first, size_t last) {
      for (size_t r = first; r < last; ++r) {
        const float* from = x + r * width;
        const auto [low, high, undefined] = range_of(from, width);
        const float range = high - low;
        const float inverse = range < kSmallest ? 0.0f : kLevels / range;
        const int32_t zero = __builtin_lrintf(-low * inverse);
        scale[r] = range / kLevels + undefined;
        zero_point[r] = static_cast<uint8_t>(zero);
        const size_t group = r / kTileRows * kTileRows;
        const size_t step = smaller(rows - group, kTileRows) * kTileDepth;
        quantize_row(from, tiles + group * depth + (r - group) * kTileDepth, step, inverse, zero, width);
      }
    });
  }
};

// ---- sums as numbers

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

// One row, from column `first` on. A large output goes past the caches; it is aligned to 64 bytes.
template <bool kBiased, class Function>
TURBO_INLINE void dequantize_row(const int32_t* x, float scale, uint32_t zero, const QuantizedLayer& layer,
                                 Function activation, float* output, size_t first, size_t width, bool large) {
  const float* column_scale = layer.scale + first;
  const int32_t* sums = layer.sums + first;
  const float* bias = kBiased ? layer.bias + first : nullptr;
  const Vec scales(scale);
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec steps = as_floats(load_integers(x + i) - zero * load_integers(sums + i));
    const Vec scaled = steps * load(column_scale + i) * scales;
    const Vec result = activation(kBiased ? scaled + load(bias + i) : scaled);
    large ? stream(output + i, result) : store(output + i, result);
  }
  if (const size_t rest = width - i) {
    const Vec steps = as_floats(load_integers(x + i, rest) - zero * load_integers(sums + i, rest));
    const Vec scaled = steps * load(column_scale + i, rest) * scales;
    store(output + i, activation(kBiased ? scaled + load(bias + i, rest) : scaled), rest);
  }
}

// ---- both

// Multiplies quantized rows, in items of some rows and some panels of columns. Those of the same panels follow each
// other, so that a thread has them in its cache.
template <bool kBiased, class Function>
void multiply(const Rows& x, size_t rows, const QuantizedLayer& layer, Function activation, float* output, bool large,
              ByteProduct* product, const Parallel& parallel) {
  const size_t height = smaller(rows, kMostRows), down = (rows + height - 1) / height;
  const size_t panels = (layer.width + kTileColumns - 1) / kTileColumns, panel = x.depth * kTileColumns;
  const size_t most = kMostSums / kTileColumns / round_up(height, kTileRows);
  const size_t pairs = (down > 1 ? kShared : kItem) / (2 * panel);
  const size_t across = smaller(most, 2 * larger(1, pairs));
  parallel((panels + across - 1) / across * down, [&](size_t item) {
    alignas(64) int32_t sums[kMostSums];
    const size_t first_panel = item / down * across, first_row = item % down * height;
    const size_t some_panels = smaller(panels - first_panel, across), some_rows = smaller(rows - first_row, height);
    const size_t first = first_panel * kTileColumns, stride = some_panels * kTileColumns;
    product(x.tiles + first_row * x.depth, some_rows, x.depth, layer.weight + first_panel * panel, some_panels, sums);
    for (size_t r = 0; r < some_rows; ++r) {
      const size_t row = first_row + r;
      dequantize_row<kBiased>(sums + r * stride, x.scale[row], x.zero_point[row], layer, activation,
                              output + row * layer.width + first, first, smaller(layer.width - first, stride), large);
    }
    if (large) streamed();
  });
}

}  // namespace

void quantized_mat_mul(const float* x, const QuantizedLayer& layer, Activation activation, float* output, size_t rows,
                       ByteProduct* product, const Parallel& parallel) {
  const size_t depth = layer.depth;
  const size_t most = larger(kTileRows, kChunk / round_up(depth, kTileDepth) / kTileRows * kTileRows);
  const bool aligned = reinterpret_cast<uintptr_t>(output) % 64 == 0 && layer.width % kTileColumns == 0;
  const bool large = aligned && rows * layer.width * sizeof(float) >= kLarge;
  with(activation, [&](auto function) {
    Rows chunk(smaller(rows, most), depth);
    for (size_t first = 0; first < rows; first += most) {
      const size_t some = smaller(rows - first, most);
      float* to = output + first * layer.width;
      chunk.quantize(x + first * depth, some, depth, parallel);
      if (layer.bias == nullptr) {
        multiply<false>(chunk, some, layer, function, to, large, product, parallel);
      } else {
        multiply<true>(chunk, some, layer, function, to, large, product, parallel);
      }
    }
  });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
