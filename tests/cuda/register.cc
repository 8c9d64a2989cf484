// A library for tests only: the operators on compiled kernels, registered for the CPU provider, so that ONNX Runtime
// runs them where there is no GPU. The driver that they launch on is the fake one.
#include <vector>

#include "custom_ops/cuda/operators.h"
#include "custom_ops/ort/abi.h"
#include "custom_ops/ort/operator.h"
#include "custom_ops/ort/status.h"

extern "C" __attribute__((visibility("default"))) turbo_onnx::abi::OrtStatus* RegisterCustomOps(
    turbo_onnx::abi::OrtSessionOptions* options, const turbo_onnx::abi::OrtApiBase* base) {
  using namespace turbo_onnx;
  const abi::OrtApi* api = base->GetApi(abi::kApiVersion);
  return guarded(api, "tests", [&] {
    static abi::OrtCustomOpDomain* domain = nullptr;
    if (domain == nullptr) {
      std::vector<const abi::OrtCustomOp*> ops;
      cuda::add_operators(ops, kCpuProvider);
      check(api, abi::CreateCustomOpDomain(api, cuda::kDomain, &domain));
      for (const abi::OrtCustomOp* op : ops) check(api, abi::CustomOpDomain_Add(api, domain, op));
    }
    check(api, abi::AddCustomOpDomain(api, options, domain));
  });
}
