// BeginRun, the node that all inputs of a planned model pass, so that it runs before everything else: it tells the
// allocator that a run of its plan begins, and at which sizes. Its outputs are its inputs, in the same memory. The
// model must say the outputs' types.
#pragma once

#include "custom_ops/arena/policy.h"
#include "custom_ops/ort/abi.h"

namespace turbo_onnx::arena {

constexpr const char* kPlanDomain = "turbo_onnx.plan";

// The operator whose kernels announce runs to blocks of this policy; with kOff, to nobody. Where it is of a domain that
// a session is made with, it provides the allocator. To be kept for ever: sessions that outlive everything else in the
// process may still point at it.
const abi::OrtCustomOp* make_marker(const abi::OrtApi* api, const Policy& policy);

}  // namespace turbo_onnx::arena
