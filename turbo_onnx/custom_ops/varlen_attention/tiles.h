// The two products of attention, as one register-blocked micro-kernel, and the transposition that feeds it.
//
// Both q k^T and p v are C[rows][columns] = A[rows][depth] B[depth][columns] with a few rows of A, read one number at a
// time and broadcast, and B read by whole vectors: B is a panel of K^T in the one, and V in the other. The accumulators
// of one tile stay in registers.
#pragma once

#include <cstddef>

#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {

#if defined(__AVX512F__)
constexpr size_t kTileVectors = 4;                 // of a full tile: with 6 rows, 24 of 32 registers
constexpr size_t kTileRows[] = {0, 12, 12, 6, 6};  // by how many vectors wide the tile is
#else
constexpr size_t kTileVectors = 2;  // with 6 rows, 12 of 16 registers
constexpr size_t kTileRows[] = {0, 6, 6};
#endif
constexpr size_t kTileColumns = kTileVectors * kLanes;

struct Matrix {
  const float* data;
  size_t stride;
};

// What is done with a finished tile: dst = dst * keep[row] + tile * scale[row]. A null keep means that dst is new; a
// null scale means `factor` for all rows.
struct Epilogue {
  float* dst;
  size_t stride;
  const float* keep;
  const float* scale;
  float factor;
  size_t columns;  // of the tile that may be written
};

template <size_t kRows, size_t kVectors>
void tile(Matrix a, Matrix b, size_t depth, const Epilogue& end) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) sum[r][v] = Vec(0.0f);
  // Three rows share a pointer: x86 addresses the other two by 1 and 2 times the stride, so no pointer is spilled.
  constexpr size_t kPointers = (kRows + 2) / 3;
  const float* left[kPointers];
#pragma GCC unroll 4
  for (size_t p = 0; p < kPointers; ++p) left[p] = a.data + 3 * p * a.stride;
  const float* row = b.data;
  for (size_t k = 0; k < depth; ++k, row += b.stride) {
    Vec right[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) right[v] = load(row + v * kLanes);
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r) {
      const Vec one(left[r / 3][r % 3 * a.stride]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = fma(one, right[v], sum[r][v]);
    }
#pragma GCC unroll 4
    for (size_t p = 0; p < kPointers; ++p) ++left[p];
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r) {
    const Vec scale(end.scale ? end.scale[r] : end.factor);
    float* dst = end.dst + r * end.stride;
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t at = v * kLanes;
      if (at >= end.columns) break;
      const size_t count = end.columns - at < kLanes ? end.columns - at : kLanes;
      Vec result = sum[r][v] * scale;
      if (end.keep) result = fma(load(dst + at, count), Vec(end.keep[r]), result);
      if (count == kLanes) {
        store(dst + at, result);
      } else {
        store(dst + at, result, count);
      }
    }
  }
}

using TileFunction = void (*)(Matrix a, Matrix b, size_t depth, const Epilogue& end);

// By vectors of width and by rows, both less 1.
#define TURBO_TILE_ROW(v) tile<1, v>, tile<2, v>, tile<3, v>, tile<4, v>, tile<5, v>, tile<6, v>
#if defined(__AVX512F__)
#define TURBO_TILE_ROW_12(v) \
  TURBO_TILE_ROW(v), tile<7, v>, tile<8, v>, tile<9, v>, tile<10, v>, tile<11, v>, tile<12, v>
constexpr TileFunction kTiles[][12] = {
    {TURBO_TILE_ROW_12(1)}, {TURBO_TILE_ROW_12(2)}, {TURBO_TILE_ROW(3)}, {TURBO_TILE_ROW(4)}};
#else
constexpr TileFunction kTiles[][6] = {{TURBO_TILE_ROW(1)}, {TURBO_TILE_ROW(2)}};
#endif

// C = A B over tiles of rows as even as possible. `end` is that of the first row.
inline void multiply(Matrix a, size_t rows, Matrix b, size_t depth, size_t vectors, Epilogue end) {
  size_t tiles = (rows + kTileRows[vectors] - 1) / kTileRows[vectors];
  for (; tiles > 0; --tiles) {
    const size_t height = (rows + tiles - 1) / tiles;
    kTiles[vectors - 1][height - 1](a, b, depth, end);
    rows -= height;
    a.data += height * a.stride;
    end.dst += height * end.stride;
    if (end.keep) end.keep += height;
    if (end.scale) end.scale += height;
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
