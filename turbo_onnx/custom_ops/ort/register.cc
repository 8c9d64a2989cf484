// What the library exports: ONNX Runtime calls RegisterCustomOps; the rest tells people what they have.
#include <map>
#include <mutex>
#include <vector>

#include "custom_ops/bias_gelu/operator.h"
#include "custom_ops/embed_layer_normalization/operator.h"
#include "custom_ops/ort/abi.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/status.h"
#include "custom_ops/remove_padding/operator.h"
#include "custom_ops/restore_padding/operator.h"
#include "custom_ops/segment_pooling/operator.h"
#include "custom_ops/skip_layer_normalization/operator.h"
#include "custom_ops/varlen_attention/operator.h"

#define TURBO_EXPORT extern "C" __attribute__((visibility("default")))

namespace turbo_onnx {
namespace {

std::vector<const abi::OrtCustomOp*> every_operator() {
  std::vector<const abi::OrtCustomOp*> ops;
  add<RemovePadding>(ops);
  add<RestorePadding>(ops);
  add<EmbedLayerNormalization>(ops);
  add<SkipLayerNormalization>(ops);
  add<BiasGelu>(ops);
  add<VarlenAttention>(ops);
  add<SegmentPooling>(ops);
  return ops;
}

// The operators as a domain. A process may hold several copies of ONNX Runtime, and a domain belongs to one. Domains
// are never released: session options keep pointers to them.
abi::OrtCustomOpDomain* domain(const abi::OrtApi* api) {
  static std::mutex mutex;
  static auto& domains = *new std::map<const abi::OrtApi*, abi::OrtCustomOpDomain*>;
  const std::lock_guard<std::mutex> lock(mutex);
  abi::OrtCustomOpDomain*& domain = domains[api];
  if (domain == nullptr) {
    abi::OrtCustomOpDomain* made = nullptr;
    check(api, abi::CreateCustomOpDomain(api, signature::kDomain, &made));
    for (const abi::OrtCustomOp* op : every_operator()) check(api, abi::CustomOpDomain_Add(api, made, op));
    domain = made;
  }
  return domain;
}

}  // namespace
}  // namespace turbo_onnx

// Registering twice with one set of options does no harm.
TURBO_EXPORT turbo_onnx::abi::OrtStatus* RegisterCustomOps(turbo_onnx::abi::OrtSessionOptions* options,
                                                           const turbo_onnx::abi::OrtApiBase* base) {
  using namespace turbo_onnx;
  const abi::OrtApi* api = base->GetApi(abi::kApiVersion);
  if (api == nullptr) return nullptr;  // older than 1.18, which prints why; without an API there is no status to return
  return guarded(api, "turbo_onnx", [&] {
    constexpr const char* kMark = "turbo_onnx.registered";
    int registered = 0;
    check(api, abi::HasSessionConfigEntry(api, options, kMark, &registered));
    if (registered) return;
    check(api, abi::AddCustomOpDomain(api, options, domain(api)));
    check(api, abi::AddSessionConfigEntry(api, options, kMark, "1"));
  });
}

TURBO_EXPORT const char* turbo_onnx_version() { return TURBO_VERSION; }

TURBO_EXPORT const char* turbo_onnx_isa() { return turbo_onnx::kernels().isa; }
