// What the library exports: ONNX Runtime calls RegisterCustomOps; the rest tells people what they have.
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "custom_ops/arena/allocator.h"
#include "custom_ops/arena/forks.h"
#include "custom_ops/arena/marker.h"
#include "custom_ops/arena/run.h"
#include "custom_ops/arena/stats.h"
#include "custom_ops/bias_gelu/operator.h"
#include "custom_ops/cuda/operators.h"
#include "custom_ops/cuda/runners.h"
#include "custom_ops/embed_layer_normalization/operator.h"
#include "custom_ops/gated_activation/operator.h"
#include "custom_ops/ort/abi.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/status.h"
#include "custom_ops/quantized_mat_mul/operator.h"
#include "custom_ops/remove_padding/operator.h"
#include "custom_ops/restore_padding/operator.h"
#include "custom_ops/rotary_embedding/operator.h"
#include "custom_ops/segment_pooling/operator.h"
#include "custom_ops/skip_layer_normalization/operator.h"
#include "custom_ops/varlen_attention/operator.h"

#define TURBO_EXPORT extern "C" __attribute__((visibility("default")))

namespace turbo_onnx {
namespace {

template <template <class> class Types, class Runner>
std::vector<const abi::OrtCustomOp*> on_the_cpu() {
  std::vector<const abi::OrtCustomOp*> ops;
  add<RemovePadding, Runner>(ops, kCpuProvider, Types<RemovePadding>::types);
  add<RestorePadding, Runner>(ops, kCpuProvider, Types<RestorePadding>::types);
  add<EmbedLayerNormalization, Runner>(ops, kCpuProvider, Types<EmbedLayerNormalization>::types);
  add<SkipLayerNormalization, Runner>(ops, kCpuProvider, Types<SkipLayerNormalization>::types);
  add<BiasGelu, Runner>(ops, kCpuProvider, Types<BiasGelu>::types);
  add<RotaryEmbedding, Runner>(ops, kCpuProvider, Types<RotaryEmbedding>::types);
  add<GatedActivation, Runner>(ops, kCpuProvider, Types<GatedActivation>::types);
  add<VarlenAttention, Runner>(ops, kCpuProvider, Types<VarlenAttention>::types);
  add<SegmentPooling, Runner>(ops, kCpuProvider, Types<SegmentPooling>::types);
  if constexpr (!Runner::carries_kernels) {
    add<QuantizedMatMul, Runner>(ops, kCpuProvider, Types<QuantizedMatMul>::types);
  }
  return ops;
}

template <class Operator>
struct CpuTypes {
  static constexpr const auto& types = Operator::Signature::types;
};

template <class Operator>
struct CudaTypes {
  static constexpr const auto& types = Operator::Signature::cuda_types;
};

using Domains = std::vector<abi::OrtCustomOpDomain*>;

abi::OrtCustomOpDomain* make_domain(const abi::OrtApi* api, const char* name,
                                    const std::vector<const abi::OrtCustomOp*>& ops) {
  abi::OrtCustomOpDomain* domain = nullptr;
  check(api, abi::CreateCustomOpDomain(api, name, &domain));
  for (const abi::OrtCustomOp* op : ops) check(api, abi::CustomOpDomain_Add(api, domain, op));
  return domain;
}

// The operators as domains. A process may hold several copies of ONNX Runtime, and a domain belongs to one. Domains are
// never released: session options keep pointers to them. Wants the lock, as the next function does.
const Domains& domains(const abi::OrtApi* api) {
  static auto& every = *new std::map<const abi::OrtApi*, Domains>;
  Domains& made = every[api];
  if (made.empty()) {
    auto with_kernels = on_the_cpu<CudaTypes, cuda::CpuFallbackRunner>();
    cuda::add_operators(with_kernels, cuda::kProvider);
    made = {make_domain(api, signature::kDomain, on_the_cpu<CpuTypes, CpuRunner>()),
            make_domain(api, cuda::kDomain, with_kernels)};
  }
  return made;
}

// The domain of the node that begins a run, whose kernels follow the policy. As lasting as the others.
abi::OrtCustomOpDomain* plan_domain(const abi::OrtApi* api, const arena::Policy& policy) {
  static auto& every = *new std::map<std::pair<const abi::OrtApi*, arena::Policy>, abi::OrtCustomOpDomain*>;
  abi::OrtCustomOpDomain*& made = every[{api, policy}];
  if (made == nullptr) made = make_domain(api, arena::kPlanDomain, {arena::make_marker(api, policy)});
  return made;
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
    const std::lock_guard<std::mutex> lock(arena::registration_lock());
    const arena::Policy policy = arena::install(api, options);
    check(api, abi::AddCustomOpDomain(api, options, plan_domain(api, policy)));
    for (abi::OrtCustomOpDomain* domain : domains(api)) check(api, abi::AddCustomOpDomain(api, options, domain));
    check(api, abi::AddSessionConfigEntry(api, options, kMark, "1"));
  });
}

TURBO_EXPORT const char* turbo_onnx_version() { return TURBO_VERSION; }

TURBO_EXPORT const char* turbo_onnx_isa() { return turbo_onnx::kernels().isa; }

// The numbers of arena::Stat, as many as there is room for. Returns how many there are.
TURBO_EXPORT size_t turbo_onnx_arena_stats(int64_t* out, size_t capacity) {
  return turbo_onnx::arena::stats(out, capacity);
}

// Gives back the memory that is kept for later runs.
TURBO_EXPORT void turbo_onnx_arena_trim() { turbo_onnx::arena::trim(); }

// From now on the calling thread's allocations and frees are written down. Returns 0 where there is no memory for it.
TURBO_EXPORT int turbo_onnx_record_begin() { return turbo_onnx::arena::begin_recording(); }

// Ends what was begun on this thread, and copies its events, four numbers each (arena::Recorder::Event), as many as fit
// into `capacity` numbers. Returns how many events there are. They stay until the next recording.
TURBO_EXPORT size_t turbo_onnx_record_end(int64_t* out, size_t capacity) {
  using Event = turbo_onnx::arena::Recorder::Event;
  static_assert(sizeof(Event) == 4 * sizeof(int64_t));
  return turbo_onnx::arena::end_recording(reinterpret_cast<Event*>(out), capacity / 4);
}
