#pragma once

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class RotaryEmbedding {
 public:
  using Signature = signature::RotaryEmbedding;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::input};
  static inline int in_place_outputs[] = {Out::output};

  explicit RotaryEmbedding(const Signature::Attributes& attributes) : heads_(attributes) {}

  // The attributes, checked.
  struct Heads {
    size_t all, rotated;
    bool interleaved;

    explicit Heads(const Signature::Attributes& attributes)
        : all(static_cast<size_t>(attributes.num_heads)),
          rotated(static_cast<size_t>(attributes.rotated_heads ? attributes.rotated_heads : attributes.num_heads)),
          interleaved(attributes.interleaved != 0) {
      require(attributes.num_heads > 0, "num_heads is ", attributes.num_heads, ", but must be positive");
      require(attributes.rotated_heads >= 0 && attributes.rotated_heads <= attributes.num_heads, "rotated_heads is ",
              attributes.rotated_heads, ", but must be between 0 and num_heads = ", attributes.num_heads);
      require(attributes.interleaved == 0 || attributes.interleaved == 1, "interleaved is ", attributes.interleaved,
              ", but must be 0 or 1");
    }
  };

  // The inputs of one run, whose shapes fit each other, and the sizes that follow. Only shapes are read.
  struct Operands {
    Tensor input, bias, cos, sin, index;
    size_t rows, head_size, rotary_size;
    size_t table_rows;  // without index, row r takes row r % table_rows

    Operands(const Context& context, size_t heads)
        : input(context.input(In::input)),
          bias(context.input(In::bias)),
          cos(context.input(In::cos)),
          sin(context.input(In::sin)),
          index(context.input(In::index)) {
      const size_t rank = input.shape.size();
      require(rank == 2 || rank == 3, "input has shape ", input.shape, ", but must have rank 2 or 3");
      const size_t width = input.last_dimension();
      require(width > 0 && width % heads == 0, "input has shape ", input.shape,
              ", whose width is no multiple of num_heads = ", heads);
      rows = input.count(0, rank - 1);
      head_size = width / heads;
      require_vector(bias, "bias", width);
      require(cos.shape.size() == rank, "cos has shape ", cos.shape, ", but must have the rank of input, ", rank);
      require(sin.shape == cos.shape, "sin has shape ", sin.shape, ", but cos has ", cos.shape);
      rotary_size = cos.last_dimension();
      require(rotary_size > 0 && rotary_size % 2 == 0 && rotary_size <= head_size, "cos has shape ", cos.shape,
              ", whose width must be even and at most that of a head, ", head_size);
      table_rows = cos.count(0, rank - 1);
      check_rows(rank);
    }

   private:
    void check_rows(size_t rank) const {
      if (index) {
        require(rank == 2, "index is for rows of rank 2 only, but input has shape ", input.shape);
        require_vector(index, "index", rows);
        return;
      }
      const bool broadcasts = rank == 3 && cos.shape[0] == 1;
      require((broadcasts || cos.shape[0] == input.shape[0]) && (rank == 2 || cos.shape[1] == input.shape[1]),
              "cos has shape ", cos.shape, ", which does not fit the rows of input, ", input.shape);
    }
  };

  void compute(const Context& context, const Kernels& kernels) const {
    const Operands operands(context, heads_.all);
    RotaryEmbeddingArguments args{};
    args.input = operands.input.as<float>();
    args.bias = operands.bias.as<float>();
    args.cos = operands.cos.as<float>();
    args.sin = operands.sin.as<float>();
    args.table_rows = operands.table_rows;
    args.index = operands.index.as<int64_t>();
    args.rows = operands.rows;
    args.heads = heads_.all;
    args.rotated_heads = heads_.rotated;
    args.head_size = operands.head_size;
    args.rotary_size = operands.rotary_size;
    args.interleaved = heads_.interleaved;
    if (operands.index) require_inside(args.index, args.rows, static_cast<int64_t>(args.table_rows));
    args.output = context.output<float>(Out::output, operands.input.shape);
    kernels.rotary_embedding(args, context.parallel());
  }

 private:
  static void require_inside(const int64_t* index, size_t count, int64_t rows) {
    for (size_t i = 0; i < count; ++i) {
      if (index[i] >= 0 && index[i] < rows) continue;
      refuse("index has ", index[i], " at ", static_cast<int64_t>(i), ", which is outside of the ", rows,
             " rows of cos");
    }
  }

  Heads heads_;
};

}  // namespace turbo_onnx
