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

  void compute(const Context& context, const Kernels& kernels) const {
    const Tensor ids = context.input(In::word_ids);
    const Tensor table = context.input(In::word_table);
    require(table.shape.size() == 2, "word_table has shape ", table.shape, ", but must be a matrix");
    const size_t tokens = ids.count();
    const size_t width = table.last_dimension();
    const Embedding word = embedding(context, In::word_ids, In::word_table, "word", ids.shape, width);
    const Embedding type = embedding(context, In::token_type_ids, In::token_type_table, "token_type", ids.shape, width);
    const Embedding position = embedding(context, In::position_ids, In::position_table, "position", ids.shape, width);
    const Tensor gamma = context.input(In::gamma);
    const Tensor beta = context.input(In::beta);
    require_vector(gamma, "gamma", width);
    require_vector(beta, "beta", width);
    Shape shape = ids.shape;
    shape.push_back(static_cast<int64_t>(width));
    float* output = context.output<float>(Out::output, shape);
    kernels.embed_layer_normalization(word, type, position, gamma.as<float>(), beta.as<float>(), epsilon_, output,
                                      tokens, width, context.parallel());
  }

 private:
  // Reads a pair of ids and table, and makes sure that every id is inside the table.
  static Embedding embedding(const Context& context, size_t ids_index, size_t table_index, const std::string& name,
                             const Shape& shape, size_t width) {
    const Tensor ids = context.input(ids_index);
    const Tensor table = context.input(table_index);
    require(ids.present == table.present, name, "_ids and ", name, "_table must be given together");
    if (!ids) return {};
    require(ids.shape == shape, name, "_ids has shape ", ids.shape, ", but word_ids has ", shape);
    require(table.shape.size() == 2 && table.last_dimension() == width, name, "_table has shape ", table.shape,
            ", but must be a matrix of ", static_cast<int64_t>(width), " columns");
    const Embedding embedding{ids.data, ids.type == abi::kInt64, table.as<float>(), table.shape[0]};
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
