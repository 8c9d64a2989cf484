#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class RemovePadding {
 public:
  using Signature = signature::RemovePadding;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit RemovePadding(const Signature::Attributes& attributes) : binary_input_(attributes.binary_input) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor tensor = mask(context);
    const Mask mask{tensor.data, mask_type(tensor.type), static_cast<size_t>(tensor.shape[0]),
                    static_cast<size_t>(tensor.shape[1])};
    int32_t* cu_seqlens = context.output<int32_t>(Out::cu_seqlens, {tensor.shape[0] + 1});
    std::vector<int32_t> unread(cu_seqlens ? 0 : mask.sequences + 1);
    if (!cu_seqlens) cu_seqlens = unread.data();
    const Counted counted = kernels.count_tokens(mask, cu_seqlens);
    if (counted.other >= 0 && !binary_input_.empty()) {
      const char* element = tensor.as<char>() + static_cast<size_t>(counted.other) * element_size(tensor.type);
      refuse_element(binary_input_, tensor.type, element, counted.other, tensor.shape[1]);
    }
    if (int32_t* max_seqlen = context.output<int32_t>(Out::max_seqlen, {})) *max_seqlen = counted.longest;
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

  // Refuses the mask of `length` columns for its element at `index`, which begins at `element` in the CPU's memory.
  [[noreturn]] static void refuse_element(const std::string& binary_input, abi::ElementType type, const void* element,
                                          int64_t index, int64_t length) {
    refuse(binary_input, " has ", number(type, element), " at [", index / length, ", ", index % length,
           "], but this model was optimized for zeros and ones; optimize it with --packing off for other values");
  }

  static size_t element_size(abi::ElementType type) {
    return type == abi::kBool ? 1 : type == abi::kInt32 || type == abi::kFloat ? 4 : 8;
  }

 private:
  // With as many digits as tell it from every other number of its type.
  static std::string number(abi::ElementType type, const void* element) {
    char text[32];
    switch (type) {
      case abi::kInt64:
        return std::to_string(*static_cast<const int64_t*>(element));
      case abi::kInt32:
        return std::to_string(*static_cast<const int32_t*>(element));
      case abi::kFloat:
        std::snprintf(text, sizeof text, "%.9g", static_cast<double>(*static_cast<const float*>(element)));
        return text;
      case abi::kDouble:
        std::snprintf(text, sizeof text, "%.17g", *static_cast<const double*>(element));
        return text;
      default:
        return std::to_string(*static_cast<const uint8_t*>(element));
    }
  }

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
      case abi::kDouble:
        return MaskType::kDouble;
      default:
        refuse("mask has a type that is not supported");
    }
  }

  std::string binary_input_;
};

}  // namespace turbo_onnx
