// Compiled once for each instruction set, like the kernels whose addresses it collects.
#include "custom_ops/ort/kernels.h"

#define TURBO_STRING_OF(name) #name
#define TURBO_STRING(name) TURBO_STRING_OF(name)

namespace turbo_onnx {
namespace TURBO_ISA {

extern const Kernels kKernels;
const Kernels kKernels = {
    TURBO_STRING(TURBO_ISA),
    bias_gelu,
    embed_layer_normalization,
    gated_activation,
    count_tokens,
    list_tokens,
    restore_padding,
    rotary_embedding,
    segment_pooling,
    skip_layer_normalization,
    varlen_attention,
    quantized_mat_mul,
    byte_product,
};

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
