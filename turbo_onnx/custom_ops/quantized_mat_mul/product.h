// Products of matrices of bytes, in tiles of 1 KB that lie one behind the other.
//
// Rows come in groups of 16, the last of which may be smaller. A group is [K / 64][rows of the group][64 of K],
// unsigned. A weight is [N / 16][K / 64][16][16 columns][4 of K], signed: each line of 64 bytes is a vector of
// vpdpbusd, and 16 of them are a tile of AMX. K is filled up with zeros to a multiple of 64 in the weight, N to a
// multiple of 16.
#pragma once

#include <cstddef>
#include <cstdint>

namespace turbo_onnx {

constexpr size_t kTileRows = 16;     // of a product
constexpr size_t kTileColumns = 16;  // of a product
constexpr size_t kTileDepth = 64;    // numbers of K that are multiplied at once
constexpr size_t kTileBytes = 1024;

// sums[r][c] of each row and of all columns of `panels` panels of 16, one behind the other; there is room for `rows`
// rounded up to 16, and what comes after the last row may be written. As many rows of tiles may be read, too. depth is
// a multiple of 64.
//
// Where processors have no product of four bytes, neighbours in K are added in 16 bits: of those that have one sign,
// weights of K = 2i and 2i + 1 must not come to more than 128.
using ByteProduct = void(const uint8_t* tiles, size_t rows, size_t depth, const int8_t* weight, size_t panels,
                         int32_t* sums);

namespace TURBO_ISA {
ByteProduct byte_product;
}

}  // namespace turbo_onnx
