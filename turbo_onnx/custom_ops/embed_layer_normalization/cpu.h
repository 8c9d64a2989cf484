#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// One table and the ids to look up in it: all in [-rows, rows), negative ones counting from the end. No table when
// `table` is null.
struct Embedding {
  const void* ids = nullptr;
  bool wide = true;  // int64, else int32
  const float* table = nullptr;
  int64_t rows = 0;
};

// output[t] = layer_normalization(word[t] + type[t] + position[t]) * gamma + beta. A null beta is none.
using EmbedLayerNormalizationKernel = void(const Embedding& word, const Embedding& type, const Embedding& position,
                                           const float* gamma, const float* beta, float epsilon, float* output,
                                           size_t tokens, size_t width, const Parallel& parallel);

namespace TURBO_ISA {
EmbedLayerNormalizationKernel embed_layer_normalization;
}

}  // namespace turbo_onnx
