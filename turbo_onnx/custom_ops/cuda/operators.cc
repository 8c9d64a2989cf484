#include "custom_ops/cuda/operators.h"

#include "custom_ops/bias_gelu/cuda.h"
#include "custom_ops/cuda/runners.h"
#include "custom_ops/embed_layer_normalization/cuda.h"
#include "custom_ops/gated_activation/cuda.h"
#include "custom_ops/remove_padding/cuda.h"
#include "custom_ops/restore_padding/cuda.h"
#include "custom_ops/rotary_embedding/cuda.h"
#include "custom_ops/segment_pooling/cuda.h"
#include "custom_ops/skip_layer_normalization/cuda.h"
#include "custom_ops/varlen_attention/cuda.h"

namespace turbo_onnx::cuda {
namespace {

template <class Operator>
void add(std::vector<const abi::OrtCustomOp*>& ops, const char* provider) {
  turbo_onnx::add<Operator, CudaRunner>(ops, provider, Operator::Signature::cuda_types);
}

}  // namespace

void add_operators(std::vector<const abi::OrtCustomOp*>& ops, const char* provider) {
  add<CudaBiasGelu>(ops, provider);
  add<CudaEmbedLayerNormalization>(ops, provider);
  add<CudaGatedActivation>(ops, provider);
  add<CudaRemovePadding>(ops, provider);
  add<CudaRestorePadding>(ops, provider);
  add<CudaRotaryEmbedding>(ops, provider);
  add<CudaSegmentPooling>(ops, provider);
  add<CudaSkipLayerNormalization>(ops, provider);
  add<CudaVarlenAttention>(ops, provider);
}

}  // namespace turbo_onnx::cuda
