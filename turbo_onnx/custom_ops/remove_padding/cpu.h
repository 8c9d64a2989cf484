#pragma once

#include <cstddef>
#include <cstdint>

namespace turbo_onnx {

enum class MaskType { kInt64, kInt32, kBool, kFloat, kDouble };

// The padding mask [sequences, length]; what is not zero is a token.
struct Mask {
  const void* data;
  MaskType type;
  size_t sequences, length;
};

// What is found on the way.
struct Counted {
  int32_t longest;  // the longest sequence's number of tokens
  int64_t other;    // index in the flat mask of the first element that is neither zero nor one, or -1
};

// Fills cu_seqlens [sequences + 1] with where each sequence's tokens start; the last is the number of tokens.
using CountTokensKernel = Counted(const Mask& mask, int32_t* cu_seqlens);

// Fills, for each token, its index in the flat mask, and its position in its sequence's row. Null outputs are none.
using ListTokensKernel = void(const Mask& mask, int64_t* token_index, int64_t* token_position);

namespace TURBO_ISA {
CountTokensKernel count_tokens;
ListTokensKernel list_tokens;
}  // namespace TURBO_ISA

}  // namespace turbo_onnx
