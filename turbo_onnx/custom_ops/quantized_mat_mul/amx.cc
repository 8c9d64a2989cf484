// With the tiles of AMX: 2 x 2 tiles of sums, for which each tile of rows and of the weight is loaded once.
//
// A single row is left to the vectors of VNNI, which wait for memory no longer than tiles do.
#include <immintrin.h>

#include "custom_ops/cpu/sizes.h"
#include "custom_ops/cpu/vector.h"
#include "custom_ops/quantized_mat_mul/product.h"

namespace turbo_onnx {

namespace avx512_vnni {
ByteProduct byte_product;
}

namespace TURBO_ISA {
namespace {

constexpr size_t kFewestRows = 2;
constexpr size_t kLine = 64;  // bytes of a row of a tile

struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tiles 0 to 3 are sums, 4 and 5 are of rows, 6 and 7 of the weight.
template <size_t kRowTiles, size_t kPanels>
TURBO_INLINE void block(const uint8_t* upper, const uint8_t* lower, size_t upper_step, size_t lower_step, size_t depth,
                        const int8_t* weight, int32_t* sums, size_t stride) {
  const int8_t* next = weight + depth * kTileColumns;
  _tile_zero(0);
  if (kPanels == 2) _tile_zero(1);
  if (kRowTiles == 2) _tile_zero(2);
  if (kRowTiles == 2 && kPanels == 2) _tile_zero(3);
  for (size_t k = 0; k < depth; k += kTileDepth) {
    _tile_loadd(4, upper, kLine);
    _tile_loadd(6, weight, kLine);
    _tile_dpbusd(0, 4, 6);
    if (kPanels == 2) {
      _tile_loadd(7, next, kLine);
      _tile_dpbusd(1, 4, 7);
    }
    if (kRowTiles == 2) {
      _tile_loadd(5, lower, kLine);
      _tile_dpbusd(2, 5, 6);
      if (kPanels == 2) _tile_dpbusd(3, 5, 7);
    }
    upper += upper_step, lower += lower_step, weight += kTileBytes, next += kTileBytes;
  }
  const size_t bytes = stride * sizeof(int32_t);
  _tile_stored(0, sums, bytes);
  if (kPanels == 2) _tile_stored(1, sums + kTileColumns, bytes);
  if (kRowTiles == 2) _tile_stored(2, sums + kTileRows * stride, bytes);
  if (kRowTiles == 2 && kPanels == 2) _tile_stored(3, sums + kTileRows * stride + kTileColumns, bytes);
}

template <size_t kPanels>
TURBO_INLINE void panels_of(const uint8_t* tiles, size_t rows, size_t depth, const int8_t* weight, int32_t* sums,
                            size_t stride) {
  for (size_t first = 0; first < rows; first += 2 * kTileRows) {
    const size_t upper = smaller(rows - first, kTileRows) * kTileDepth;
    const uint8_t* from = tiles + first * depth;
    int32_t* to = sums + first * stride;
    if (rows - first <= kTileRows) {
      block<1, kPanels>(from, from, upper, upper, depth, weight, to, stride);
    } else {
      const size_t lower = smaller(rows - first - kTileRows, kTileRows) * kTileDepth;
      block<2, kPanels>(from, from + kTileRows * depth, upper, lower, depth, weight, to, stride);
    }
  }
}

}  // namespace

void byte_product(const uint8_t* tiles, size_t rows, size_t depth, const int8_t* weight, size_t panels, int32_t* sums) {
  if (rows < kFewestRows) return avx512_vnni::byte_product(tiles, rows, depth, weight, panels, sums);
  TileConfiguration configuration;
  if (rows < kTileRows) configuration.rows[0] = configuration.rows[1] = configuration.rows[4] = rows;
  _tile_loadconfig(&configuration);
  const size_t stride = panels * kTileColumns;
  size_t panel = 0;
  for (; panel + 2 <= panels; panel += 2) {
    panels_of<2>(tiles, rows, depth, weight + panel * depth * kTileColumns, sums + panel * kTileColumns, stride);
  }
  if (panel < panels) {
    panels_of<1>(tiles, rows, depth, weight + panel * depth * kTileColumns, sums + panel * kTileColumns, stride);
  }
  _tile_release();
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
