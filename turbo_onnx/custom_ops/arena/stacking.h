// From a stacking order to what each buffer has to lie on.
#pragma once

#include <cstdint>
#include <vector>

#include "custom_ops/arena/plan.h"

namespace turbo_onnx::arena {

// Which planned buffers are alive at once: for each buffer those that were alive when it was allocated.
struct Conflicts {
  size_t planned;
  std::vector<std::vector<int32_t>> with;  // both ways; by buffer
};

// Of events that are known to be in order. Throws InvalidArgument where the pairs are too many to be a model's.
Conflicts conflicts_of(const Variant& variant);

// `buffers`: all planned ones, the lowest first.
Order make_order(const Conflicts& conflicts, std::vector<int32_t> buffers);

}  // namespace turbo_onnx::arena
