#pragma once

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class QuantizeRows {
 public:
  using Signature = signature::QuantizeRows;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit QuantizeRows(const Signature::Attributes&) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor x = context.input(In::x);
    require(!x.shape.empty(), "x is a scalar, but must have rows");
    require(x.shape.back() != 0, "x has shape ", x.shape, ", but its rows must hold numbers");
    Shape row = x.shape;
    row.back() = 1;
    uint8_t* output = context.output<uint8_t>(Out::output, x.shape);
    float* scale = context.output<float>(Out::scale, row);
    uint8_t* zero_point = context.output<uint8_t>(Out::zero_point, row);
    const size_t rows = x.count(0, x.shape.size() - 1);
    if (rows == 0) return;  // an output without elements may have no address, as one that nobody reads
    require(output != nullptr && scale != nullptr && zero_point != nullptr, "all three outputs must be there");
    kernels.quantize_rows(x.as<float>(), output, scale, zero_point, rows, x.last_dimension(), context.parallel());
  }
};

}  // namespace turbo_onnx
