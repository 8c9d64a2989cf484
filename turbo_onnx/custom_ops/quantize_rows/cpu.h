#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// For each row of `width` floats, which is not 0: output = round(x / scale) + zero_point, where scale and zero_point
// are those of the smallest range that holds the row and zero. A row with a number that is not finite gets a scale that
// is not finite; what its output is does not matter.
using QuantizeRowsKernel = void(const float* x, uint8_t* output, float* scale, uint8_t* zero_point, size_t rows,
                                size_t width, const Parallel& parallel);

namespace TURBO_ISA {
QuantizeRowsKernel quantize_rows;
}

}  // namespace turbo_onnx
