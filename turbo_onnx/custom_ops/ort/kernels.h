// The kernels of one instruction set, as a table, and the choice among the tables.
//
// Every kernel source is compiled once for each instruction set, in a namespace of its own; this is where the copies
// meet. The table is chosen once, when it is first asked for, by what the processor and the operating system support.
#pragma once

#include "custom_ops/bias_gelu/cpu.h"
#include "custom_ops/embed_layer_normalization/cpu.h"
#include "custom_ops/gated_activation/cpu.h"
#include "custom_ops/quantized_mat_mul/cpu.h"
#include "custom_ops/remove_padding/cpu.h"
#include "custom_ops/restore_padding/cpu.h"
#include "custom_ops/rotary_embedding/cpu.h"
#include "custom_ops/segment_pooling/cpu.h"
#include "custom_ops/skip_layer_normalization/cpu.h"
#include "custom_ops/varlen_attention/cpu.h"

namespace turbo_onnx {

struct Kernels {
  const char* isa;  // "baseline", "avx2", "avx512", "avx512_vnni" or "amx_int8"
  BiasGeluKernel* bias_gelu;
  EmbedLayerNormalizationKernel* embed_layer_normalization;
  GatedActivationKernel* gated_activation;
  CountTokensKernel* count_tokens;
  ListTokensKernel* list_tokens;
  RestorePaddingKernel* restore_padding;
  RotaryEmbeddingKernel* rotary_embedding;
  SegmentPoolingKernel* segment_pooling;
  SkipLayerNormalizationKernel* skip_layer_normalization;
  VarlenAttentionKernel* varlen_attention;
  QuantizedMatMulKernel* quantized_mat_mul;
  ByteProduct* byte_product;
};

// The best table that this machine can run; TURBO_ONNX_ISA in the environment lowers the choice to the set that it
// names.
const Kernels& kernels();

}  // namespace turbo_onnx
