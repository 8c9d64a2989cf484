#pragma once

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/segment_pooling/operator.h"

namespace turbo_onnx {

class CudaSegmentPooling {
 public:
  using Signature = signature::SegmentPooling;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit CudaSegmentPooling(const Signature::Attributes& attributes)
      : pooling_(SegmentPooling::named(attributes.mode)) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const Tensor rows = context.input(In::rows);
    const Tensor cu_seqlens = context.input(In::cu_seqlens);
    const size_t width = SegmentPooling::width(rows);
    const size_t sequences = count_sequences(cu_seqlens);
    char* output = context.output<char>(Out::output, {static_cast<int64_t>(sequences), rows.shape[1]});
    const auto key = cuda::Key("segment_pooling")
                         .type(rows.type)
                         .value("width", width)
                         .value("mode", static_cast<int64_t>(pooling_));
    const auto grid = [&](cuda::Tile tile) {
      return cuda::Grid{cuda::tiles(sequences, tile.x), cuda::tiles(width, tile.y)};
    };
    kernels.launch(context.stream(), key, grid, rows.data, cu_seqlens.data, output, rows.shape[0]);
  }

 private:
  Pooling pooling_;
};

}  // namespace turbo_onnx
