// How keys, values and queries are laid out before they are multiplied; their bias is added on the way.
#pragma once

#include <cstddef>

#include "custom_ops/cpu/sizes.h"
#include "custom_ops/cpu/vector.h"
#include "custom_ops/varlen_attention/tiles.h"

namespace turbo_onnx {
namespace TURBO_ISA {

// dst[r][:] = rows[r][:] + bias, zeros from width to padded.
inline void copy_rows(const float* src, size_t src_stride, const float* bias, size_t rows, size_t width, float* dst,
                      size_t padded) {
  for (size_t r = 0; r < rows; ++r, src += src_stride, dst += padded) {
    for (size_t i = 0; i < width; i += kLanes) {
      const size_t count = smaller(width - i, kLanes);
      if (count == kLanes) {
        store(dst + i, bias ? load(src + i) + load(bias + i) : load(src + i));
      } else {
        const Vec part = load(src + i, count);
        store(dst + i, bias ? part + load(bias + i, count) : part, smaller(padded - i, kLanes));
      }
    }
  }
}

// Packs rows of keys as panels: dst[panel][dimension][key in panel]; keys past the last one are zero.
inline void pack_keys(const float* src, size_t src_stride, const float* bias, size_t keys, size_t width, float* dst) {
  for (size_t k = 0; k < keys; k += kLanes) {
    float* panel = dst + k / kTileColumns * kTileColumns * width + k % kTileColumns;
    const size_t count = smaller(keys - k, kLanes);
    for (size_t d = 0; d < width; d += kLanes) {
      const size_t depth = smaller(width - d, kLanes);
      Vec block[kLanes];
      if (count == kLanes && depth == kLanes) {
        const Vec added = bias ? load(bias + d) : Vec(0.0f);
#pragma GCC unroll 16
        for (size_t i = 0; i < kLanes; ++i) block[i] = load(src + (k + i) * src_stride + d) + added;
      } else {
        const Vec added = bias ? load(bias + d, depth) : Vec(0.0f);
#pragma GCC unroll 16
        for (size_t i = 0; i < kLanes; ++i)
          block[i] = i < count ? load(src + (k + i) * src_stride + d, depth) + added : Vec(0.0f);
      }
      transpose(block);
#pragma GCC unroll 16
      for (size_t i = 0; i < kLanes; ++i)
        if (i < depth) store(panel + (d + i) * kTileColumns, block[i]);
    }
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
