#include "custom_ops/embed_layer_normalization/cpu.h"

#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

TURBO_INLINE const float* look_up(const Embedding& embedding, size_t token, size_t width) {
  if (embedding.table == nullptr) return nullptr;
  const int64_t id = embedding.wide ? static_cast<const int64_t*>(embedding.ids)[token]
                                    : static_cast<const int32_t*>(embedding.ids)[token];
  return embedding.table + static_cast<size_t>(id < 0 ? id + embedding.rows : id) * width;
}

// to = the sum of the rows that are there, in the order of the arguments; returns the sum of its elements.
TURBO_INLINE float add_rows(const float* word, const float* type, const float* position, float* to, size_t width) {
  const size_t whole = width - width % kLanes;
  const size_t rest = width - whole;
  Vec total(0.0f);
  for (size_t i = 0; i < whole; i += kLanes) {
    Vec value = load(word + i);
    if (type) value += load(type + i);
    if (position) value += load(position + i);
    total += value;
    store(to + i, value);
  }
  if (rest) {
    Vec value = load(word + whole, rest);
    if (type) value += load(type + whole, rest);
    if (position) value += load(position + whole, rest);
    total += value;
    store(to + whole, value, rest);
  }
  return hsum(total);
}

}  // namespace

void embed_layer_normalization(const Embedding& word, const Embedding& type, const Embedding& position,
                               const float* gamma, const float* beta, float epsilon, float* output, size_t tokens,
                               size_t width, const Parallel& parallel) {
  for_row_blocks(tokens, width, parallel, [&](size_t first, size_t last) {
    for (size_t t = first; t < last; ++t) {
      float* row = output + t * width;
      const float total =
          add_rows(look_up(word, t, width), look_up(type, t, width), look_up(position, t, width), row, width);
      normalize_row(row, total, gamma, beta, epsilon, row, width);
    }
  });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
