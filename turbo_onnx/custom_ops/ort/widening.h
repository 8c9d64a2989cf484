// Lets an operator that computes in float32 run on float16 and bfloat16 tensors: inputs are widened before it, outputs
// narrowed after it. For artifacts in half precision where there is no GPU; right, and not fast.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "custom_ops/ort/abi.h"
#include "custom_ops/ort/half.h"

namespace turbo_onnx {

class Widening {
 public:
  static bool applies(abi::ElementType type) { return type == abi::kFloat16 || type == abi::kBFloat16; }

  // A float32 copy, valid as long as this.
  float* input(const void* data, abi::ElementType type, size_t count) {
    std::vector<float>& wide = buffers_.emplace_back(count);
    const auto* narrow = static_cast<const uint16_t*>(data);
    const bool half = type == abi::kFloat16;
    for (size_t i = 0; i < count; ++i) wide[i] = half ? from_float16(narrow[i]) : from_bfloat16(narrow[i]);
    return wide.data();
  }

  // Memory for a float32 result, which `finish` stores at `data`.
  float* output(void* data, abi::ElementType type, size_t count) {
    std::vector<float>& wide = buffers_.emplace_back(count);
    results_.push_back({static_cast<uint16_t*>(data), type == abi::kFloat16, &wide});
    return wide.data();
  }

  void finish() const {
    for (const Result& result : results_) {
      const std::vector<float>& wide = *result.wide;
      for (size_t i = 0; i < wide.size(); ++i) {
        result.narrow[i] = result.half ? to_float16(wide[i]) : to_bfloat16(wide[i]);
      }
    }
  }

 private:
  struct Result {
    uint16_t* narrow;
    bool half;
    const std::vector<float>* wide;
  };

  std::deque<std::vector<float>> buffers_;  // whose elements stay where they are
  std::vector<Result> results_;
};

}  // namespace turbo_onnx
