#pragma once

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/restore_padding/operator.h"

namespace turbo_onnx {

// The values of token_index are not checked: they are on the device. If they do not ascend, rows are missing.
class CudaRestorePadding {
 public:
  using Signature = signature::RestorePadding;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit CudaRestorePadding(const Signature::Attributes&) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const RestorePadding::Operands operands(context);
    require(operands.tokens <= operands.positions, "there are ", operands.tokens, " rows for ", operands.positions,
            " positions");
    const Tensor& rows = operands.rows;
    char* output = context.output<char>(Out::output, operands.output_shape);
    const auto key = cuda::Key("restore_padding")
                         .value("bytes", RestorePadding::element_size(rows.type))
                         .value("width", operands.row_elements);
    const auto grid = [&](cuda::Tile tile) {
      return cuda::Grid{cuda::tiles(operands.positions, tile.x), cuda::tiles(operands.row_elements, tile.y)};
    };
    kernels.launch(context.stream(), key, grid, rows.data, operands.token_index.data, output,
                   static_cast<int64_t>(operands.tokens), static_cast<int64_t>(operands.positions));
  }
};

}  // namespace turbo_onnx
