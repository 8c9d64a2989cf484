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

  // The inputs of one run, whose shapes fit each other, and their sizes.
  struct Operands {
    Tensor rows, token_index;
    Shape output_shape;
    size_t tokens, positions, row_elements;

    explicit Operands(const Context& context)
        : rows(context.input(In::rows)), token_index(context.input(In::token_index)) {
      const Tensor mask = context.input(In::mask);
      require(mask.shape.size() == 2, "mask has shape ", mask.shape, ", but must be a matrix");
      require(!rows.shape.empty(), "rows is a scalar, but must have rows");
      tokens = rows.count(0, 1);
      positions = mask.count();
      row_elements = rows.count(1, rows.shape.size());
      require_vector(token_index, "token_index", tokens);
      output_shape = mask.shape;
      output_shape.insert(output_shape.end(), rows.shape.begin() + 1, rows.shape.end());
    }
  };

  void compute(const Context& context, const Kernels& kernels) const {
    const Operands operands(context);
    const int64_t* index = operands.token_index.as<int64_t>();
    require_ascending(index, operands.tokens, static_cast<int64_t>(operands.positions));
    kernels.restore_padding(operands.rows.as<char>(), operands.row_elements * element_size(operands.rows.type), index,
                            operands.tokens, context.output<char>(Out::output, operands.output_shape),
                            operands.positions, context.parallel());
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
};

}  // namespace turbo_onnx
