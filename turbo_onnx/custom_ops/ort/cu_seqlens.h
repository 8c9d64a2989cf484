// The checks that every operator on packed rows makes of where its sequences start.
#pragma once

#include "custom_ops/ort/tensor.h"

namespace turbo_onnx {

// Requires cu_seqlens to be a vector of at least one element, and returns how many sequences it has. It does not read
// the values, which may be on a device.
inline size_t count_sequences(const Tensor& cu_seqlens) {
  require(cu_seqlens.shape.size() == 1 && cu_seqlens.count() > 0, "cu_seqlens has shape ", cu_seqlens.shape,
          ", but must be a vector with one element more than there are sequences");
  return cu_seqlens.count() - 1;
}

// Requires cu_seqlens to be a vector that ascends from 0 to the number of rows, and returns how many sequences it has.
// Kernels trust it from here on.
inline size_t require_cu_seqlens(const Tensor& cu_seqlens, size_t rows) {
  const size_t sequences = count_sequences(cu_seqlens);
  const int32_t* bounds = cu_seqlens.as<int32_t>();
  bool ascending = bounds[0] == 0;
  for (size_t i = 0; i < sequences; ++i) ascending = ascending && bounds[i] <= bounds[i + 1];
  require(ascending && static_cast<size_t>(bounds[sequences]) == rows, "cu_seqlens must ascend from 0 to the ", rows,
          " rows that there are");
  return sequences;
}

}  // namespace turbo_onnx
