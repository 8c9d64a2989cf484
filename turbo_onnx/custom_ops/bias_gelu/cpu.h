#pragma once

#include <cstddef>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// y[r][i] = gelu(x[r][i] + bias[i]), by erf or by the tanh approximation. A null bias is none. y may be x.
using BiasGeluKernel = void(const float* x, const float* bias, float* y, size_t rows, size_t width, bool tanh,
                            const Parallel& parallel);

namespace TURBO_ISA {
BiasGeluKernel bias_gelu;
}

}  // namespace turbo_onnx
