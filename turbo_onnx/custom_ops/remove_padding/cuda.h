#pragma once

#include <cstdint>

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/remove_padding/operator.h"

namespace turbo_onnx {

// The one operator that waits for the device: how many tokens there are is the size of its outputs, and of everything
// packed behind it.
class CudaRemovePadding {
 public:
  using Signature = signature::RemovePadding;
  using Out = Signature::Out;

  explicit CudaRemovePadding(const Signature::Attributes&) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const Tensor mask = RemovePadding::mask(context);
    const int64_t sequences = mask.shape[0], length = mask.shape[1];
    int32_t* cu_seqlens = context.output<int32_t>(Out::cu_seqlens, {sequences + 1});
    require(cu_seqlens != nullptr, "its output cu_seqlens must be there, since tokens are counted in its memory");
    int32_t* max_seqlen = context.output<int32_t>(Out::max_seqlen, {});
    void* stream = context.stream();
    const auto by_sequence = [&](cuda::Tile) { return cuda::Grid{static_cast<uint64_t>(sequences)}; };
    const auto once = [](cuda::Tile) { return cuda::Grid{}; };
    kernels.launch(stream, cuda::Key("count_tokens").type(mask.type), by_sequence, mask.data, cu_seqlens, length);
    kernels.launch(stream, cuda::Key("sum_up_tokens").value("max_seqlen", max_seqlen != nullptr), once, cu_seqlens,
                   max_seqlen, sequences);

    const Shape tokens = {mask.count() == 0 ? 0 : kernels.read(stream, cu_seqlens + sequences)};
    int64_t* token_index = context.output<int64_t>(Out::token_index, tokens);
    int64_t* token_position = context.output<int64_t>(Out::token_position, tokens);
    if (tokens[0] == 0) return;  // an output without elements may have no address, as one that nobody reads
    const auto key = cuda::Key("list_tokens")
                         .type(mask.type)
                         .value("index", token_index != nullptr)
                         .value("position", token_position != nullptr);
    kernels.launch(stream, key, by_sequence, mask.data, cu_seqlens, token_index, token_position, length);
  }
};

}  // namespace turbo_onnx
