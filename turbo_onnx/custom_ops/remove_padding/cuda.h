#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/remove_padding/operator.h"

namespace turbo_onnx {

// The one operator that waits for the device: how many tokens there are is the size of its outputs, and of everything
// packed behind it. By the same number it learns of an element that is neither 0 nor 1 where there must be none.
class CudaRemovePadding {
 public:
  using Signature = signature::RemovePadding;
  using Out = Signature::Out;

  explicit CudaRemovePadding(const Signature::Attributes& attributes) : binary_input_(attributes.binary_input) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const Tensor mask = RemovePadding::mask(context);
    const int64_t sequences = mask.shape[0], length = mask.shape[1];
    int32_t* cu_seqlens = context.output<int32_t>(Out::cu_seqlens, {sequences + 1});
    require(cu_seqlens != nullptr, "its output cu_seqlens must be there, since tokens are counted in its memory");
    int32_t* max_seqlen = context.output<int32_t>(Out::max_seqlen, {});
    void* stream = context.stream();
    const auto by_sequence = [&](cuda::Tile) { return cuda::Grid{static_cast<uint64_t>(sequences)}; };
    const auto once = [](cuda::Tile) { return cuda::Grid{}; };
    const char* count = binary_input_.empty() ? "count_tokens" : "count_ones";
    kernels.launch(stream, cuda::Key(count).type(mask.type), by_sequence, mask.data, cu_seqlens, length);
    kernels.launch(stream, cuda::Key("sum_up_tokens").value("max_seqlen", max_seqlen != nullptr), once, cu_seqlens,
                   max_seqlen, sequences);

    const Shape tokens = {mask.count() == 0 ? 0 : kernels.read(stream, cu_seqlens + sequences)};
    if (tokens[0] < 0) refuse_element(kernels, stream, mask, -(tokens[0] + 1));
    int64_t* token_index = context.output<int64_t>(Out::token_index, tokens);
    int64_t* token_position = context.output<int64_t>(Out::token_position, tokens);
    if (tokens[0] == 0) return;  // an output without elements may have no address, as one that nobody reads
    const auto key = cuda::Key("list_tokens")
                         .type(mask.type)
                         .value("index", token_index != nullptr)
                         .value("position", token_position != nullptr);
    kernels.launch(stream, key, by_sequence, mask.data, cu_seqlens, token_index, token_position, length);
  }

 private:
  [[noreturn]] void refuse_element(const cuda::Kernels& kernels, void* stream, const Tensor& mask,
                                   int64_t index) const {
    alignas(int64_t) std::array<int32_t, 2> element{};
    const size_t words = RemovePadding::element_size(mask.type) / sizeof(int32_t);
    for (size_t word = 0; word < words; ++word) {
      element[word] = kernels.read(stream, mask.as<int32_t>() + index * static_cast<int64_t>(words) + word);
    }
    RemovePadding::refuse_element(binary_input_, mask.type, element.data(), index, mask.shape[1]);
  }

  std::string binary_input_;
};

}  // namespace turbo_onnx
