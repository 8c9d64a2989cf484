#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/cpu/activation.h"
#include "custom_ops/ort/parallel.h"
#include "custom_ops/quantized_mat_mul/product.h"

namespace turbo_onnx {

// A layer whose weight is bytes, laid out as product.h says; a scale and the sum of the integers of each column, and
// what is added, which may be null.
struct QuantizedLayer {
  const int8_t* weight;
  const float* scale;
  const int32_t* sums;
  const float* bias;
  size_t depth;  // K, which is not 0
  size_t width;  // N
};

// output[r][i] = activation((q[r] weight[i] - zero_point[r] * sums[i]) * scale[i] * scale_of_row[r] + bias[i]), where
// q[r] = round(x[r] / scale_of_row[r]) + zero_point[r] in bytes, by the smallest range that holds the row and zero. A
// row with a number that is not finite gives no finite number.
using QuantizedMatMulKernel = void(const float* x, const QuantizedLayer& layer, Activation activation, float* output,
                                   size_t rows, ByteProduct* product, const Parallel& parallel);

namespace TURBO_ISA {
QuantizedMatMulKernel quantized_mat_mul;
}

}  // namespace turbo_onnx
