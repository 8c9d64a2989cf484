#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

enum class Pooling { kMean, kSum, kMax, kFirst };

// output[b] = the pooled rows [cu_seqlens[b], cu_seqlens[b + 1]); of no rows, zeros, or -inf for the maximum.
using SegmentPoolingKernel = void(const float* rows, const int32_t* cu_seqlens, size_t sequences, size_t width,
                                  Pooling pooling, float* output, const Parallel& parallel);

namespace TURBO_ISA {
SegmentPoolingKernel segment_pooling;
}

}  // namespace turbo_onnx
