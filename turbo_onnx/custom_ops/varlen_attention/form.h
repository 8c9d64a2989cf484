// Which attention a node is, whatever its inputs are: heads, which keys a query may see, and how these lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "custom_ops/ort/signatures.h"
#include "custom_ops/ort/tensor.h"
#include "custom_ops/varlen_attention/cpu.h"

namespace turbo_onnx {

struct VarlenAttentionForm {
  size_t heads, key_heads;  // of queries, and of keys and values
  Window window;
  float softcap;      // 0: none
  bool keys_by_head;  // keys and values are [B, G, L, D], and not rows

  explicit VarlenAttentionForm(const signature::VarlenAttention::Attributes& attributes) {
    const int64_t all = attributes.num_heads, shared = attributes.kv_num_heads;
    require(all > 0, "num_heads is ", all, ", but must be positive");
    require(shared >= 0 && (shared == 0 || all % shared == 0), "num_heads is ", all,
            ", but must be a multiple of kv_num_heads, which is ", shared);
    heads = static_cast<size_t>(all);
    key_heads = static_cast<size_t>(shared == 0 ? all : shared);
    window.before = bound(attributes.window_before, "window_before");
    window.after = bound(attributes.window_after, "window_after");
    if (attributes.causal != 0) window.after = 0;
    softcap = attributes.softcap;
    require(softcap >= 0.0f && softcap < std::numeric_limits<float>::infinity(), "softcap is ", softcap,
            ", but must be 0 or a positive number");
    keys_by_head = attributes.keys_by_head != 0;
  }

 private:
  static size_t bound(int64_t value, const char* name) {
    require(value >= -1, name, " is ", value, ", but must be -1 or more");
    return value == -1 ? Window::kUnbounded : static_cast<size_t>(value);
  }
};

}  // namespace turbo_onnx
