// What the specifications say of every operator. Made by `python -m turbo_onnx.custom_ops.header`.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "custom_ops/ort/abi.h"

namespace turbo_onnx::signature {

constexpr const char* kDomain = "turbo_onnx";

struct RemovePadding {
  static constexpr const char* name = "RemovePadding";
  static constexpr int names = 2;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { mask }; };
  struct Out { enum : size_t { token_index, cu_seqlens, max_seqlen, token_position }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired, abi::kRequired, abi::kRequired, abi::kRequired};
  static constexpr abi::ElementType types[][5] = {
      {abi::kInt64, abi::kInt64, abi::kInt32, abi::kInt32, abi::kInt64},
      {abi::kInt32, abi::kInt64, abi::kInt32, abi::kInt32, abi::kInt64},
      {abi::kBool, abi::kInt64, abi::kInt32, abi::kInt32, abi::kInt64},
      {abi::kFloat, abi::kInt64, abi::kInt32, abi::kInt32, abi::kInt64},
      {abi::kDouble, abi::kInt64, abi::kInt32, abi::kInt32, abi::kInt64},
  };
  static constexpr const auto& cuda_types = types;
  static constexpr bool widens = false;
  struct Attributes {
    std::string binary_input;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.string("binary_input", "")};
    }
  };
};

struct RestorePadding {
  static constexpr const char* name = "RestorePadding";
  static constexpr int names = 1;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { rows, token_index, mask }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kRequired, abi::kRequired};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][4] = {
      {abi::kFloat, abi::kInt64, abi::kInt64, abi::kFloat},
      {abi::kFloat, abi::kInt64, abi::kInt32, abi::kFloat},
      {abi::kFloat, abi::kInt64, abi::kBool, abi::kFloat},
      {abi::kFloat, abi::kInt64, abi::kFloat, abi::kFloat},
      {abi::kFloat, abi::kInt64, abi::kDouble, abi::kFloat},
      {abi::kFloat16, abi::kInt64, abi::kInt64, abi::kFloat16},
      {abi::kFloat16, abi::kInt64, abi::kInt32, abi::kFloat16},
      {abi::kFloat16, abi::kInt64, abi::kBool, abi::kFloat16},
      {abi::kFloat16, abi::kInt64, abi::kFloat, abi::kFloat16},
      {abi::kFloat16, abi::kInt64, abi::kDouble, abi::kFloat16},
      {abi::kBFloat16, abi::kInt64, abi::kInt64, abi::kBFloat16},
      {abi::kBFloat16, abi::kInt64, abi::kInt32, abi::kBFloat16},
      {abi::kBFloat16, abi::kInt64, abi::kBool, abi::kBFloat16},
      {abi::kBFloat16, abi::kInt64, abi::kFloat, abi::kBFloat16},
      {abi::kBFloat16, abi::kInt64, abi::kDouble, abi::kBFloat16},
      {abi::kDouble, abi::kInt64, abi::kInt64, abi::kDouble},
      {abi::kDouble, abi::kInt64, abi::kInt32, abi::kDouble},
      {abi::kDouble, abi::kInt64, abi::kBool, abi::kDouble},
      {abi::kDouble, abi::kInt64, abi::kFloat, abi::kDouble},
      {abi::kDouble, abi::kInt64, abi::kDouble, abi::kDouble},
      {abi::kInt64, abi::kInt64, abi::kInt64, abi::kInt64},
      {abi::kInt64, abi::kInt64, abi::kInt32, abi::kInt64},
      {abi::kInt64, abi::kInt64, abi::kBool, abi::kInt64},
      {abi::kInt64, abi::kInt64, abi::kFloat, abi::kInt64},
      {abi::kInt64, abi::kInt64, abi::kDouble, abi::kInt64},
      {abi::kInt32, abi::kInt64, abi::kInt64, abi::kInt32},
      {abi::kInt32, abi::kInt64, abi::kInt32, abi::kInt32},
      {abi::kInt32, abi::kInt64, abi::kBool, abi::kInt32},
      {abi::kInt32, abi::kInt64, abi::kFloat, abi::kInt32},
      {abi::kInt32, abi::kInt64, abi::kDouble, abi::kInt32},
      {abi::kBool, abi::kInt64, abi::kInt64, abi::kBool},
      {abi::kBool, abi::kInt64, abi::kInt32, abi::kBool},
      {abi::kBool, abi::kInt64, abi::kBool, abi::kBool},
      {abi::kBool, abi::kInt64, abi::kFloat, abi::kBool},
      {abi::kBool, abi::kInt64, abi::kDouble, abi::kBool},
  };
  static constexpr const auto& cuda_types = types;
  static constexpr bool widens = false;
  struct Attributes {
    template <class Reader>
    static Attributes read([[maybe_unused]] const Reader& reader) {
      return {};
    }
  };
};

struct EmbedLayerNormalization {
  static constexpr const char* name = "EmbedLayerNormalization";
  static constexpr int names = 2;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { word_ids, token_type_ids, position_ids, word_table, token_type_table, position_table, gamma, beta }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kOptional, abi::kOptional, abi::kRequired, abi::kOptional, abi::kOptional, abi::kRequired, abi::kOptional};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][9] = {
      {abi::kInt64, abi::kInt64, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt64, abi::kInt64, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt64, abi::kInt32, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt64, abi::kInt32, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt64, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt64, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt32, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt32, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
  };
  static constexpr abi::ElementType cuda_types[][9] = {
      {abi::kInt64, abi::kInt64, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt64, abi::kInt64, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt64, abi::kInt32, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt64, abi::kInt32, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt64, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt64, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt32, abi::kInt64, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt32, abi::kInt32, abi::kInt32, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kInt64, abi::kInt64, abi::kInt64, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt64, abi::kInt64, abi::kInt32, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt64, abi::kInt32, abi::kInt64, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt64, abi::kInt32, abi::kInt32, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt32, abi::kInt64, abi::kInt64, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt32, abi::kInt64, abi::kInt32, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt32, abi::kInt32, abi::kInt64, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt32, abi::kInt32, abi::kInt32, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kInt64, abi::kInt64, abi::kInt64, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
      {abi::kInt64, abi::kInt64, abi::kInt32, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
      {abi::kInt64, abi::kInt32, abi::kInt64, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
      {abi::kInt64, abi::kInt32, abi::kInt32, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
      {abi::kInt32, abi::kInt64, abi::kInt64, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
      {abi::kInt32, abi::kInt64, abi::kInt32, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
      {abi::kInt32, abi::kInt32, abi::kInt64, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
      {abi::kInt32, abi::kInt32, abi::kInt32, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
  };
  static constexpr bool widens = true;
  struct Attributes {
    float epsilon;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.real("epsilon", 1e-12f)};
    }
  };
};

struct SkipLayerNormalization {
  static constexpr const char* name = "SkipLayerNormalization";
  static constexpr int names = 6;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { x, skip, gamma, beta, bias }; };
  struct Out { enum : size_t { output, sum }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kOptional, abi::kRequired, abi::kOptional, abi::kOptional};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired, abi::kOptional};
  static constexpr abi::ElementType types[][7] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
  };
  static constexpr abi::ElementType cuda_types[][7] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
  };
  static constexpr bool widens = true;
  struct Attributes {
    float epsilon;
    int64_t rms;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.real("epsilon", 1e-05f), reader.integer("rms", 0)};
    }
  };
};

struct BiasGelu {
  static constexpr const char* name = "BiasGelu";
  static constexpr int names = 2;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { x, bias }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kOptional};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][3] = {
      {abi::kFloat, abi::kFloat, abi::kFloat},
  };
  static constexpr abi::ElementType cuda_types[][3] = {
      {abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
  };
  static constexpr bool widens = true;
  struct Attributes {
    std::string approximate;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.string("approximate", "none")};
    }
  };
};

struct RotaryEmbedding {
  static constexpr const char* name = "RotaryEmbedding";
  static constexpr int names = 4;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { input, bias, cos, sin, index }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kOptional, abi::kRequired, abi::kRequired, abi::kOptional};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][6] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kInt64, abi::kFloat},
  };
  static constexpr abi::ElementType cuda_types[][6] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kInt64, abi::kFloat},
      {abi::kFloat16, abi::kFloat16, abi::kFloat, abi::kFloat, abi::kInt64, abi::kFloat16},
      {abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kInt64, abi::kFloat16},
      {abi::kBFloat16, abi::kBFloat16, abi::kFloat, abi::kFloat, abi::kInt64, abi::kBFloat16},
      {abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kInt64, abi::kBFloat16},
  };
  static constexpr bool widens = true;
  struct Attributes {
    int64_t num_heads;
    int64_t rotated_heads;
    int64_t interleaved;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.integer("num_heads"), reader.integer("rotated_heads", 0), reader.integer("interleaved", 0)};
    }
  };
};

struct GatedActivation {
  static constexpr const char* name = "GatedActivation";
  static constexpr int names = 2;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { x, up, bias }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kOptional, abi::kOptional};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][4] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
  };
  static constexpr abi::ElementType cuda_types[][4] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat},
      {abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16},
      {abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16},
  };
  static constexpr bool widens = true;
  struct Attributes {
    std::string activation;
    int64_t gate_last;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.string("activation", "gelu"), reader.integer("gate_last", 0)};
    }
  };
};

struct VarlenAttention {
  static constexpr const char* name = "VarlenAttention";
  static constexpr int names = 6;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { query, key, value, bias, cu_seqlens, attention_bias, positions }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kOptional, abi::kOptional, abi::kOptional, abi::kOptional, abi::kOptional, abi::kOptional};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][8] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kInt32, abi::kFloat, abi::kInt64, abi::kFloat},
  };
  static constexpr abi::ElementType cuda_types[][8] = {
      {abi::kFloat, abi::kFloat, abi::kFloat, abi::kFloat, abi::kInt32, abi::kFloat, abi::kInt64, abi::kFloat},
      {abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kInt32, abi::kFloat, abi::kInt64, abi::kFloat16},
      {abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kFloat16, abi::kInt32, abi::kFloat16, abi::kInt64, abi::kFloat16},
      {abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kInt32, abi::kFloat, abi::kInt64, abi::kBFloat16},
      {abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kBFloat16, abi::kInt32, abi::kBFloat16, abi::kInt64, abi::kBFloat16},
  };
  static constexpr bool widens = true;
  struct Attributes {
    int64_t num_heads;
    float scale;
    int64_t causal;
    int64_t guard;
    int64_t kv_num_heads;
    int64_t window_before;
    int64_t window_after;
    float softcap;
    int64_t keys_by_head;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.integer("num_heads"), reader.real("scale"), reader.integer("causal", 0), reader.integer("guard", 0), reader.integer("kv_num_heads", 0), reader.integer("window_before", -1), reader.integer("window_after", -1), reader.real("softcap", 0.0f), reader.integer("keys_by_head", 0)};
    }
  };
};

struct SegmentPooling {
  static constexpr const char* name = "SegmentPooling";
  static constexpr int names = 2;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { rows, cu_seqlens }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kRequired};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][3] = {
      {abi::kFloat, abi::kInt32, abi::kFloat},
  };
  static constexpr abi::ElementType cuda_types[][3] = {
      {abi::kFloat, abi::kInt32, abi::kFloat},
      {abi::kFloat16, abi::kInt32, abi::kFloat16},
      {abi::kBFloat16, abi::kInt32, abi::kBFloat16},
  };
  static constexpr bool widens = true;
  struct Attributes {
    std::string mode;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.string("mode", "mean")};
    }
  };
};

struct QuantizedMatMul {
  static constexpr const char* name = "QuantizedMatMul";
  static constexpr int names = 4;  // X, X_2, X_3, ...: one for each form within one model
  struct In { enum : size_t { x, weight, weight_scale, column_sums, bias }; };
  struct Out { enum : size_t { output }; };
  static constexpr abi::Characteristic inputs[] = {abi::kRequired, abi::kRequired, abi::kRequired, abi::kRequired, abi::kOptional};
  static constexpr abi::Characteristic outputs[] = {abi::kRequired};
  static constexpr abi::ElementType types[][6] = {
      {abi::kFloat, abi::kInt8, abi::kFloat, abi::kInt32, abi::kFloat, abi::kFloat},
  };
  static constexpr const auto& cuda_types = types;
  static constexpr bool widens = false;
  struct Attributes {
    std::string activation;
    template <class Reader>
    static Attributes read(const Reader& reader) {
      return {reader.string("activation", "none")};
    }
  };
};

}  // namespace turbo_onnx::signature
