#pragma once

#include <cstdint>

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class RemovePadding {
 public:
  using Signature = signature::RemovePadding;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit RemovePadding(const Signature::Attributes&) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor tensor = mask(context);
    const Mask mask{tensor.data, mask_type(tensor.type), static_cast<size_t>(tensor.shape[0]),
                    static_cast<size_t>(tensor.shape[1])};
    int32_t* cu_seqlens = context.output<int32_t>(Out::cu_seqlens, {tensor.shape[0] + 1});
    std::vector<int32_t> unread(cu_seqlens ? 0 : mask.sequences + 1);
    if (!cu_seqlens) cu_seqlens = unread.data();
    const int32_t longest = kernels.count_tokens(mask, cu_seqlens);
    if (int32_t* max_seqlen = context.output<int32_t>(Out::max_seqlen, {})) *max_seqlen = longest;
    const Shape tokens = {cu_seqlens[mask.sequences]};
    kernels.list_tokens(mask, context.output<int64_t>(Out::token_index, tokens),
                        context.output<int64_t>(Out::token_position, tokens));
  }

  // The mask, whose shape is checked.
  static Tensor mask(const Context& context) {
    const Tensor tensor = context.input(In::mask);
    require(tensor.shape.size() == 2, "mask has shape ", tensor.shape, ", but must be a matrix");
    require(tensor.count() <= INT32_MAX, "mask has more than 2^31 - 1 elements");
    return tensor;
  }

 private:
  static MaskType mask_type(abi::ElementType type) {
    switch (type) {
      case abi::kInt64:
        return MaskType::kInt64;
      case abi::kInt32:
        return MaskType::kInt32;
      case abi::kBool:
        return MaskType::kBool;
      case abi::kFloat:
        return MaskType::kFloat;
      default:
        refuse("mask has a type that is not supported");
    }
  }
};

}  // namespace turbo_onnx
