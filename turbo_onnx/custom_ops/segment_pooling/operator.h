#pragma once

#include "custom_ops/ort/cu_seqlens.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class SegmentPooling {
 public:
  using Signature = signature::SegmentPooling;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit SegmentPooling(const Signature::Attributes& attributes) : pooling_(named(attributes.mode)) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor rows = context.input(In::rows);
    const Tensor cu_seqlens = context.input(In::cu_seqlens);
    const size_t columns = width(rows);
    const size_t sequences = require_cu_seqlens(cu_seqlens, rows.count(0, 1));
    float* output = context.output<float>(Out::output, {static_cast<int64_t>(sequences), rows.shape[1]});
    kernels.segment_pooling(rows.as<float>(), cu_seqlens.as<int32_t>(), sequences, columns, pooling_, output,
                            context.parallel());
  }

  // Checks the shape of rows, and returns how long each is.
  static size_t width(const Tensor& rows) {
    require(rows.shape.size() == 2, "rows has shape ", rows.shape, ", but must be a matrix");
    return rows.last_dimension();
  }

  static Pooling named(const std::string& mode) {
    if (mode == "mean") return Pooling::kMean;
    if (mode == "sum") return Pooling::kSum;
    if (mode == "max") return Pooling::kMax;
    require(mode == "first", "mode is \"", mode, "\", but must be \"mean\", \"sum\", \"max\" or \"first\"");
    return Pooling::kFirst;
  }

 private:
  Pooling pooling_;
};

}  // namespace turbo_onnx
