#pragma once

#include <cstddef>

#include "custom_ops/cpu/activation.h"
#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// One operand: rows of `width` floats that begin `stride` floats apart, and a row that is added to each, or null.
struct GatedOperand {
  const float* rows;
  const float* bias;
};

// y[r][i] = activation(gate[r][i]) * up[r][i]. y is dense, and may be either operand where their stride is the width.
using GatedActivationKernel = void(GatedOperand gate, GatedOperand up, size_t stride, float* y, size_t rows,
                                   size_t width, Activation activation, const Parallel& parallel);

namespace TURBO_ISA {
GatedActivationKernel gated_activation;
}

}  // namespace turbo_onnx
