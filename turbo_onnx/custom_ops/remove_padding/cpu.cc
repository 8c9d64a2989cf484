// One pass over the mask to count, one to write. A mask is a thousandth of the work that it saves: one thread will do.
#include "custom_ops/remove_padding/cpu.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

template <class T>
Counted count(const T* mask, size_t sequences, size_t length, int32_t* cu_seqlens) {
  int32_t total = 0, longest = 0, others = 0;
  cu_seqlens[0] = 0;
  for (size_t b = 0; b < sequences; ++b) {
    int32_t tokens = 0;
    for (size_t s = 0; s < length; ++s) {
      const T element = mask[b * length + s];
      tokens += element != T(0);
      others |= (element != T(0)) & (element != T(1));
    }
    total += tokens;
    longest = tokens > longest ? tokens : longest;
    cu_seqlens[b + 1] = total;
  }
  if (others == 0) return {longest, -1};
  int64_t other = 0;
  while (mask[other] == T(0) || mask[other] == T(1)) ++other;
  return {longest, other};
}

template <class T>
void list(const T* mask, size_t sequences, size_t length, int64_t* token_index, int64_t* token_position) {
  size_t token = 0;
  for (size_t b = 0; b < sequences; ++b) {
    for (size_t s = 0; s < length; ++s) {
      if (mask[b * length + s] == T(0)) continue;
      if (token_index) token_index[token] = static_cast<int64_t>(b * length + s);
      if (token_position) token_position[token] = static_cast<int64_t>(s);
      ++token;
    }
  }
}

// Calls body with the mask's elements as what they are.
template <class Body>
auto typed(const Mask& mask, Body&& body) {
  switch (mask.type) {
    case MaskType::kInt64:
      return body(static_cast<const int64_t*>(mask.data));
    case MaskType::kInt32:
      return body(static_cast<const int32_t*>(mask.data));
    case MaskType::kBool:
      return body(static_cast<const uint8_t*>(mask.data));
    case MaskType::kDouble:
      return body(static_cast<const double*>(mask.data));
    default:
      return body(static_cast<const float*>(mask.data));
  }
}

}  // namespace

Counted count_tokens(const Mask& mask, int32_t* cu_seqlens) {
  return typed(mask, [&](auto* data) { return count(data, mask.sequences, mask.length, cu_seqlens); });
}

void list_tokens(const Mask& mask, int64_t* token_index, int64_t* token_position) {
  typed(mask, [&](auto* data) { list(data, mask.sequences, mask.length, token_index, token_position); });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
