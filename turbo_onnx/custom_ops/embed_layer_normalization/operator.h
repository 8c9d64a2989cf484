#pragma once

#include <string>

#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/signatures.h"

namespace turbo_onnx {

class EmbedLayerNormalization {
 public:
  using Signature = signature::EmbedLayerNormalization;
  using In = Signature::In;
  using Out = Signature::Out;

  explicit EmbedLayerNormalization(const Signature::Attributes& attributes) : epsilon_(attributes.epsilon) {}

  // A table and the ids to look up in it: both there, or neither.
  struct Lookup {
    Tensor ids, table;

    explicit operator bool() const { return table.present; }
    int64_t rows() const { return table.present ? table.shape[0] : 0; }
  };

  // The inputs of one run, whose shapes fit each other, and their sizes. Ids may still be outside of their tables.
  struct Operands {
    Lookup word, token_type, position;
    Tensor gamma, beta;
    Shape output_shape;
    size_t tokens, width;

    explicit Operands(const Context& context)
        : word{context.input(In::word_ids), context.input(In::word_table)},
          token_type{context.input(In::token_type_ids), context.input(In::token_type_table)},
          position{context.input(In::position_ids), context.input(In::position_table)},
          gamma(context.input(In::gamma)),
          beta(context.input(In::beta)) {
      require(word.table.shape.size() == 2, "word_table has shape ", word.table.shape, ", but must be a matrix");
      tokens = word.ids.count();
      width = word.table.last_dimension();
      require_fit(token_type, "token_type");
      require_fit(position, "position");
      require_vector(gamma, "gamma", width);
      require_vector(beta, "beta", width);
      output_shape = word.ids.shape;
      output_shape.push_back(static_cast<int64_t>(width));
    }

   private:
    void require_fit(const Lookup& lookup, const std::string& name) const {
      const auto& [ids, table] = lookup;
      require(ids.present == table.present, name, "_ids and ", name, "_table must be given together");
      if (!lookup) return;
      require(ids.shape == word.ids.shape, name, "_ids has shape ", ids.shape, ", but word_ids has ", word.ids.shape);
      require(table.shape.size() == 2 && table.last_dimension() == width, name, "_table has shape ", table.shape,
              ", but must be a matrix of ", static_cast<int64_t>(width), " columns");
    }
  };

  void compute(const Context& context, const Kernels& kernels) const {
    const Operands operands(context);
    const Embedding word = embedding(operands.word, "word");
    const Embedding token_type = embedding(operands.token_type, "token_type");
    const Embedding position = embedding(operands.position, "position");
    float* output = context.output<float>(Out::output, operands.output_shape);
    kernels.embed_layer_normalization(word, token_type, position, operands.gamma.as<float>(), operands.beta.as<float>(),
                                      epsilon_, output, operands.tokens, operands.width, context.parallel());
  }

 private:
  // What the kernel takes of a table, after every id was found to be inside it.
  static Embedding embedding(const Lookup& lookup, const std::string& name) {
    if (!lookup) return {};
    const auto& [ids, table] = lookup;
    const Embedding embedding{ids.data, ids.type == abi::kInt64, table.as<float>(), lookup.rows()};
    if (embedding.wide) {
      require_inside(ids.as<int64_t>(), ids.count(), name, embedding.rows);
    } else {
      require_inside(ids.as<int32_t>(), ids.count(), name, embedding.rows);
    }
    return embedding;
  }

  template <class Id>
  static void require_inside(const Id* ids, size_t count, const std::string& name, int64_t rows) {
    for (size_t i = 0; i < count; ++i) {
      if (ids[i] >= -rows && ids[i] < rows) continue;
      refuse(name, " id ", ids[i], " is outside its table of ", rows, " rows");
    }
  }

  float epsilon_;
};

}  // namespace turbo_onnx
