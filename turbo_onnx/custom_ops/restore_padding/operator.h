#pragma once

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class RestorePadding {
 public:
  using Signature = signature::RestorePadding;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit RestorePadding(const Signature::Attributes&) {}

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor rows = context.input(In::rows);
    const Tensor index = context.input(In::token_index);
    const Tensor mask = context.input(In::mask);
    require(mask.shape.size() == 2, "mask has shape ", mask.shape, ", but must be a matrix");
    require(!rows.shape.empty(), "rows is a scalar, but must have rows");
    const size_t tokens = static_cast<size_t>(rows.shape[0]);
    require_vector(index, "token_index", tokens);
    require_ascending(index.as<int64_t>(), tokens, static_cast<int64_t>(mask.count()));
    Shape shape = mask.shape;
    shape.insert(shape.end(), rows.shape.begin() + 1, rows.shape.end());
    const size_t row_bytes = rows.count(1, rows.shape.size()) * element_size(rows.type);
    kernels.restore_padding(rows.as<char>(), row_bytes, index.as<int64_t>(), tokens,
                            context.output<char>(Out::output, shape), mask.count(), context.parallel());
  }

 private:
  static void require_ascending(const int64_t* index, size_t tokens, int64_t positions) {
    int64_t previous = -1;
    for (size_t t = 0; t < tokens; ++t) {
      require_inside(index[t], previous, positions);
      previous = index[t];
    }
  }

  static void require_inside(int64_t index, int64_t previous, int64_t positions) {
    if (index > previous && index < positions) return;
    refuse("token_index has ", index, " after ", previous, ", but must be strictly ascending and below ", positions);
  }

  static size_t element_size(abi::ElementType type) {
    switch (type) {
      case abi::kBool:
        return 1;
      case abi::kFloat16:
      case abi::kBFloat16:
        return 2;
      case abi::kFloat:
      case abi::kInt32:
        return 4;
      case abi::kInt64:
      case abi::kDouble:
        return 8;
      default:
        refuse("rows has a type that is not supported");
    }
  }
};

}  // namespace turbo_onnx
