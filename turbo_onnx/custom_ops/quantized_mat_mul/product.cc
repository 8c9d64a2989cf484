// A vector of 16 columns at a time: each line of the weight is multiplied with four bytes of a few rows.
#include "custom_ops/quantized_mat_mul/product.h"

#include "custom_ops/cpu/sizes.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

// Line: 16 columns of four weights. Four: four bytes of a row, in every column. Sums: 16 numbers.
#if defined(__AVX512BW__)

constexpr size_t kMostRows = 8, kFewRows = 2;  // whose sums fit into registers, beside those of 2 panels, and of 4
constexpr size_t kPanels = 2, kPanelsOfFewRows = 4;

using Line = __m512i;
using Four = __m512i;
struct Sums {
  __m512i v = _mm512_setzero_si512();
};

TURBO_INLINE Line load_line(const int8_t* p) { return _mm512_loadu_si512(p); }
TURBO_INLINE Four load_four(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}
TURBO_INLINE void add_product(Sums& sums, Four four, Line line) {
#if defined(__AVX512VNNI__)
  sums.v = _mm512_dpbusd_epi32(sums.v, four, line);
#else
  const __m512i pairs = _mm512_maddubs_epi16(four, line);
  sums.v = _mm512_add_epi32(sums.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
TURBO_INLINE void store_sums(int32_t* p, Sums sums) { _mm512_storeu_si512(p, sums.v); }

#elif defined(__AVX2__)

constexpr size_t kMostRows = 4, kFewRows = 2;
constexpr size_t kPanels = 1, kPanelsOfFewRows = 2;

struct Line {
  __m256i low, high;
};
using Four = __m256i;
struct Sums {
  __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
};

TURBO_INLINE Line load_line(const int8_t* p) {
  const auto* halves = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
TURBO_INLINE Four load_four(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}
TURBO_INLINE __m256i product_of(Four four, __m256i weights) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(four, weights), _mm256_set1_epi16(1));
}
TURBO_INLINE void add_product(Sums& sums, Four four, Line line) {
  sums.low = _mm256_add_epi32(sums.low, product_of(four, line.low));
  sums.high = _mm256_add_epi32(sums.high, product_of(four, line.high));
}
TURBO_INLINE void store_sums(int32_t* p, Sums sums) {
  auto* halves = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(halves, sums.low);
  _mm256_storeu_si256(halves + 1, sums.high);
}

#elif defined(__SSE2__)

constexpr size_t kMostRows = 1, kFewRows = 1;
constexpr size_t kPanels = 1, kPanelsOfFewRows = 1;

using Line = const int8_t*;
using Four = __m128i;  // in 16 bits, twice
struct Sums {
  __m128i halves[8];  // of two columns each: the even pair of their four products, and the odd one

  TURBO_INLINE Sums() {
    for (__m128i& two : halves) two = _mm_setzero_si128();
  }
};

TURBO_INLINE Line load_line(const int8_t* p) { return p; }
TURBO_INLINE Four load_four(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return _mm_unpacklo_epi8(_mm_set1_epi32(four), _mm_setzero_si128());
}
TURBO_INLINE void add_product(Sums& sums, Four four, Line line) {
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(line) + i);
    const __m128i low = _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
    const __m128i high = _mm_srai_epi16(_mm_unpackhi_epi8(bytes, bytes), 8);
    sums.halves[2 * i] = _mm_add_epi32(sums.halves[2 * i], _mm_madd_epi16(four, low));
    sums.halves[2 * i + 1] = _mm_add_epi32(sums.halves[2 * i + 1], _mm_madd_epi16(four, high));
  }
}
TURBO_INLINE void store_sums(int32_t* p, const Sums& sums) {
  for (size_t i = 0; i < 4; ++i) {
    const __m128 low = _mm_castsi128_ps(sums.halves[2 * i]), high = _mm_castsi128_ps(sums.halves[2 * i + 1]);
    const __m128i even = _mm_castps_si128(_mm_shuffle_ps(low, high, 0x88));
    const __m128i odd = _mm_castps_si128(_mm_shuffle_ps(low, high, 0xdd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p) + i, _mm_add_epi32(even, odd));
  }
}

#else

constexpr size_t kMostRows = 1, kFewRows = 1;
constexpr size_t kPanels = 1, kPanelsOfFewRows = 1;

using Line = const int8_t*;
using Four = const uint8_t*;
struct Sums {
  int32_t v[kTileColumns] = {};
};

TURBO_INLINE Line load_line(const int8_t* p) { return p; }
TURBO_INLINE Four load_four(const uint8_t* p) { return p; }
TURBO_INLINE void add_product(Sums& sums, Four four, Line line) {
  for (size_t c = 0; c < kTileColumns; ++c) {
    const int8_t* w = line + 4 * c;
    sums.v[c] += four[0] * w[0] + four[1] * w[1] + four[2] * w[2] + four[3] * w[3];
  }
}
TURBO_INLINE void store_sums(int32_t* p, const Sums& sums) { std::memcpy(p, sums.v, sizeof(sums.v)); }

#endif

struct Place {
  const uint8_t* rows;  // of a group
  size_t group;         // how many rows it has
  size_t depth;
  const int8_t* weight;
  int32_t* sums;
  size_t stride;  // of sums
};

template <size_t kRows, size_t kColumnPanels>
void block(const Place& at) {
  Sums sums[kRows][kColumnPanels];
  const size_t panel = at.depth * kTileColumns;
  const uint8_t* rows = at.rows;
  const int8_t* weight = at.weight;
  for (size_t k = 0; k < at.depth; k += kTileDepth) {
    for (size_t i = 0; i < kTileDepth; i += 4, weight += 4 * kTileColumns) {
      Line lines[kColumnPanels];
#pragma GCC unroll 4
      for (size_t p = 0; p < kColumnPanels; ++p) lines[p] = load_line(weight + p * panel);
#pragma GCC unroll 8
      for (size_t r = 0; r < kRows; ++r) {
        const Four four = load_four(rows + r * kTileDepth + i);
#pragma GCC unroll 4
        for (size_t p = 0; p < kColumnPanels; ++p) add_product(sums[r][p], four, lines[p]);
      }
    }
    rows += at.group * kTileDepth;
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t p = 0; p < kColumnPanels; ++p) store_sums(at.sums + r * at.stride + p * kTileColumns, sums[r][p]);
  }
}

// The same for a number of rows that is not known before, of at most kRows.
template <size_t kRows, size_t kColumnPanels>
TURBO_INLINE void block_of(size_t rows, const Place& at) {
  if (rows == kRows) return block<kRows, kColumnPanels>(at);
  if constexpr (kRows > 1) block_of<kRows - 1, kColumnPanels>(rows, at);
}

// All rows, and kColumnPanels panels.
template <size_t kRows, size_t kColumnPanels>
TURBO_INLINE void panels_of(const uint8_t* tiles, size_t rows, size_t depth, const int8_t* weight, int32_t* sums,
                            size_t stride) {
  for (size_t first = 0; first < rows; first += kTileRows) {
    const size_t group = smaller(rows - first, kTileRows);
    for (size_t r = 0; r < group; r += kRows) {
      const Place at{tiles + first * depth + r * kTileDepth, group, depth, weight, sums + (first + r) * stride, stride};
      block_of<kRows, kColumnPanels>(smaller(group - r, kRows), at);
    }
  }
}

}  // namespace

void byte_product(const uint8_t* tiles, size_t rows, size_t depth, const int8_t* weight, size_t panels, int32_t* sums) {
  const size_t stride = panels * kTileColumns;
  const auto from = [&](size_t panel) { return weight + panel * depth * kTileColumns; };
  size_t panel = 0;
  if (rows <= kFewRows) {
    for (; panel + kPanelsOfFewRows <= panels; panel += kPanelsOfFewRows) {
      panels_of<kFewRows, kPanelsOfFewRows>(tiles, rows, depth, from(panel), sums + panel * kTileColumns, stride);
    }
  }
  for (; panel + kPanels <= panels; panel += kPanels) {
    panels_of<kMostRows, kPanels>(tiles, rows, depth, from(panel), sums + panel * kTileColumns, stride);
  }
  for (; panel < panels; ++panel) {
    panels_of<kMostRows, 1>(tiles, rows, depth, from(panel), sums + panel * kTileColumns, stride);
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
