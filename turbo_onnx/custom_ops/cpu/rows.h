// Loops over the rows of a matrix, and what is done to one row.
#pragma once

#include <cstddef>

#include "custom_ops/cpu/vector.h"
#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {
namespace TURBO_ISA {

// Runs body(first, last) over blocks of rows of about 64 KB.
template <class Body>
TURBO_INLINE void for_row_blocks(size_t rows, size_t width, const Parallel& parallel, Body&& body) {
  constexpr size_t kBlock = 16384;  // floats
  const size_t height = width == 0 || width >= kBlock ? 1 : kBlock / width;
  parallel((rows + height - 1) / height, [&](size_t item) {
    const size_t first = item * height;
    body(first, first + height < rows ? first + height : rows);
  });
}

// out[i] = (row[i] - mean) / sqrt(variance + epsilon) * gamma[i] + beta[i], where `total` is the sum of the row. A null
// beta is none. out may be row.
//
// Two passes, with the correction of Chan, Golub and LeVeque ("Algorithms for computing the sample variance", 1983):
// E[x^2] - E[x]^2 would lose everything where the mean is large, and the rounding of the mean itself is made good by
// the sum of what is left when it is taken off.
TURBO_INLINE void normalize_row(const float* row, float total, const float* gamma, const float* beta, float epsilon,
                                float* out, size_t width) {
  const size_t whole = width - width % kLanes;
  const size_t rest = width - whole;
  const float count = static_cast<float>(width);
  const float mean = total / count;
  Vec sums(0.0f), squares(0.0f);
  for (size_t i = 0; i < whole; i += kLanes) {
    const Vec centred = load(row + i) - Vec(mean);
    sums += centred;
    squares = fma(centred, centred, squares);
  }
  float error = hsum(sums), variance = hsum(squares);
  for (size_t i = whole; i < width; ++i) {
    error += row[i] - mean;
    variance += (row[i] - mean) * (row[i] - mean);
  }
  error /= count;
  variance = variance / count - error * error;
  if (variance < 0) variance = 0;  // by rounding; NaN stays
  const float scale = 1.0f / __builtin_sqrtf(variance + epsilon);
  const Vec scales(scale), shift(-error * scale);
  for (size_t i = 0; i < whole; i += kLanes) {
    const Vec normal = fma(load(row + i) - Vec(mean), scales, shift);
    store(out + i, beta ? fma(normal, load(gamma + i), load(beta + i)) : normal * load(gamma + i));
  }
  if (rest) {
    const Vec normal = fma(load(row + whole, rest) - Vec(mean), scales, shift);
    const Vec scaled = normal * load(gamma + whole, rest);
    store(out + whole, beta ? scaled + load(beta + whole, rest) : scaled, rest);
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
