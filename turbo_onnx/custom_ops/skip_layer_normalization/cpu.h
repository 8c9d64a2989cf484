#pragma once

#include <cstddef>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// sum = x + skip + bias, output = layer_normalization(sum) * gamma + beta, row by row; with `rms` the mean is not taken
// off, and the root of the mean square divides. Null skip, beta, bias and sum are none. output may be x or skip, and so
// may sum.
using SkipLayerNormalizationKernel = void(const float* x, const float* skip, const float* gamma, const float* beta,
                                          const float* bias, float epsilon, bool rms, float* output, float* sum,
                                          size_t rows, size_t width, const Parallel& parallel);

namespace TURBO_ISA {
SkipLayerNormalizationKernel skip_layer_normalization;
}

}  // namespace turbo_onnx
