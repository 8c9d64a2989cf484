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

// out[i] = (row[i] - mean) / sqrt(variance + epsilon) * gamma[i] + beta[i], where `total` is the sum of the row. The
// variance is taken about the mean, in a second pass: E[x^2] - E[x]^2 loses everything where the mean is large. A null
// beta is none. out may be row.
TURBO_INLINE void normalize_row(const float* row, float total, const float* gamma, const float* beta, float epsilon,
                                float* out, size_t width) {
  const size_t whole = width - width % kLanes;
  const size_t rest = width - whole;
  const float mean = total / static_cast<float>(width);
  Vec squares(0.0f);
  for (size_t i = 0; i < whole; i += kLanes) {
    const Vec centred = load(row + i) - Vec(mean);
    squares = fma(centred, centred, squares);
  }
  float variance = hsum(squares);
  for (size_t i = whole; i < width; ++i) variance += (row[i] - mean) * (row[i] - mean);
  variance /= static_cast<float>(width);
  const Vec scale(1.0f / __builtin_sqrtf(variance + epsilon));
  for (size_t i = 0; i < whole; i += kLanes) {
    const Vec normal = (load(row + i) - Vec(mean)) * scale;
    store(out + i, beta ? fma(normal, load(gamma + i), load(beta + i)) : normal * load(gamma + i));
  }
  if (rest) {
    const Vec normal = (load(row + whole, rest) - Vec(mean)) * scale;
    const Vec scaled = normal * load(gamma + whole, rest);
    store(out + whole, beta ? scaled + load(beta + whole, rest) : scaled, rest);
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
