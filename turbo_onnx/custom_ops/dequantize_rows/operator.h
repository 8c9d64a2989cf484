#pragma once

#include "custom_ops/ort/activation.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class DequantizeRows {
 public:
  using Signature = signature::DequantizeRows;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::x};
  static inline int in_place_outputs[] = {Out::output};

  explicit DequantizeRows(const Signature::Attributes& attributes)
      : activation_(activation_named(attributes.activation, true)) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor x = context.input(In::x);
    require(!x.shape.empty(), "x is a scalar, but must have rows");
    const Tensor scale = context.input(In::scale), zero_point = context.input(In::zero_point);
    Shape row = x.shape;
    row.back() = 1;
    require(scale.shape == row, "scale has shape ", scale.shape, ", but must have ", row);
    require(zero_point.shape == row, "zero_point has shape ", zero_point.shape, ", but must have ", row);
    const size_t width = x.last_dimension();
    const auto column = [&](size_t index, const char* name) {
      const Tensor tensor = context.input(index);
      require_vector(tensor, name, width);
      return tensor;
    };
    const QuantizedColumns columns{column(In::weight_scale, "weight_scale").as<float>(),
                                   column(In::column_sums, "column_sums").as<int32_t>(),
                                   column(In::bias, "bias").as<float>()};
    float* output = context.output<float>(Out::output, x.shape);
    const size_t rows = x.count(0, x.shape.size() - 1);
    kernels.dequantize_rows(x.as<int32_t>(), scale.as<float>(), zero_point.as<uint8_t>(), columns, activation_, output,
                            rows, width, context.parallel());
  }

 private:
  Activation activation_;
};

}  // namespace turbo_onnx
