#pragma once

#include "custom_ops/ort/activation.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class QuantizedMatMul {
 public:
  using Signature = signature::QuantizedMatMul;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit QuantizedMatMul(const Signature::Attributes& attributes)
      : activation_(activation_named(attributes.activation, true)) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor x = context.input(In::x), weight = context.input(In::weight);
    require(!x.shape.empty(), "x is a scalar, but must have rows");
    require(x.shape.back() != 0, "x has shape ", x.shape, ", but its rows must hold numbers");
    const Tensor scale = context.input(In::weight_scale);
    require(scale.shape.size() == 1, "weight_scale has shape ", scale.shape, ", but must be a vector");
    const size_t depth = x.last_dimension(), width = scale.count();
    const Shape tiles{blocks(width, kTileColumns), blocks(depth, kTileDepth), kTileDepth / 4, kTileColumns, 4};
    require(weight.shape == tiles, "weight has shape ", weight.shape, ", but must have ", tiles, " for ",
            static_cast<int64_t>(depth), " rows and ", static_cast<int64_t>(width), " columns");
    const auto column = [&](size_t index, const char* name) {
      const Tensor tensor = context.input(index);
      require_vector(tensor, name, width);
      return tensor;
    };
    const QuantizedLayer layer{weight.as<int8_t>(),
                               scale.as<float>(),
                               column(In::column_sums, "column_sums").as<int32_t>(),
                               column(In::bias, "bias").as<float>(),
                               depth,
                               width};
    Shape shape = x.shape;
    shape.back() = static_cast<int64_t>(width);
    float* output = context.output<float>(Out::output, shape);
    const size_t rows = x.count(0, x.shape.size() - 1);
    if (rows == 0 || width == 0) return;
    kernels.quantized_mat_mul(x.as<float>(), layer, activation_, output, rows, kernels.byte_product,
                              context.parallel());
  }

 private:
  static int64_t blocks(size_t count, size_t block) { return static_cast<int64_t>((count + block - 1) / block); }

  Activation activation_;
};

}  // namespace turbo_onnx
