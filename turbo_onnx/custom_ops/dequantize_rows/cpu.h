#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/cpu/activation.h"
#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// The constants of a quantized layer: a scale and the sum of the integers of each column of its weight, and what is
// added, which may be null.
struct QuantizedColumns {
  const float* scale;
  const int32_t* sums;
  const float* bias;
};

// output[r][i] = activation((x[r][i] - zero_point[r] * sums[i]) * columns.scale[i] * scale[r] + bias[i]). output may be
// x.
using DequantizeRowsKernel = void(const int32_t* x, const float* scale, const uint8_t* zero_point,
                                  QuantizedColumns columns, Activation activation, float* output, size_t rows,
                                  size_t width, const Parallel& parallel);

namespace TURBO_ISA {
DequantizeRowsKernel dequantize_rows;
}

}  // namespace turbo_onnx
