// The softmax over the keys that a row sees, in the steps that attention takes it by.
#pragma once

#include <cstddef>
#include <limits>

#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Turns scores s into softcap * tanh(s / softcap), up to whole vectors.
inline void cap_scores(float* scores, size_t keys, float softcap) {
  const Vec limit(softcap), part(1.0f / softcap);
  for (size_t j = 0; j < keys; j += kLanes) store(scores + j, limit * tanh(load(scores + j) * part));
}

// Adds the attention bias of one query to its scores.
inline void add_bias(float* scores, const float* bias, size_t stride, size_t keys) {
  if (stride == 1) {
    size_t j = 0;
    for (; j + kLanes <= keys; j += kLanes) store(scores + j, load(scores + j) + load(bias + j));
    if (j < keys) store(scores + j, load(scores + j, keys - j) + load(bias + j, keys - j), keys - j);
  } else {
    for (size_t j = 0; j < keys; ++j) scores[j] += bias[j * stride];
  }
}

// The largest of the first `keys` scores and `largest`. What the last of their vectors holds beyond them becomes -inf.
TURBO_INLINE float largest_of(float* scores, size_t keys, float largest) {
  Vec most(largest);
  size_t j = 0;
  for (; j + kLanes <= keys; j += kLanes) most = max(most, load(scores + j));
  if (j < keys) {
    const Vec last = select_less(lane_numbers(), Vec(static_cast<float>(keys - j)), load(scores + j), Vec(-kInfinity));
    store(scores + j, last);
    most = max(most, last);
  }
  return hmax(most);
}

// Turns the first `keys` scores into exp(score - largest), and the rest up to `padded` into 0. Returns their sum.
TURBO_INLINE float exponentiate(float* scores, size_t keys, size_t padded, float largest) {
  const Vec base(largest == -kInfinity ? 0.0f : largest);
  Vec sum(0.0f);
  size_t j = 0;
  for (; j < keys; j += kLanes) {
    const Vec e = exp_below_overflow(load(scores + j) - base);
    store(scores + j, e);
    sum += e;
  }
  for (; j < padded; j += kLanes) store(scores + j, Vec(0.0f));
  return hsum(sum);
}

// 1 / sum for each of the rows. Where the softmax is not defined, NaN, or 0 if that is guarded against.
inline void invert(float* sums, size_t rows, bool guard) {
  for (size_t r = 0; r < rows; ++r) {
    const bool defined = sums[r] > 0.0f;
    sums[r] = defined ? 1.0f / sums[r] : guard ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
