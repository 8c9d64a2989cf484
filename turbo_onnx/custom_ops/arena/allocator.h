// The allocator that ONNX Runtime gets from this library, for every session that is made with options which the library
// was registered with.
#pragma once

#include "custom_ops/arena/policy.h"
#include "custom_ops/ort/abi.h"

namespace turbo_onnx::arena {

// Makes sessions of these options use the allocator, if it can. Returns the policy for their plans: kOff where the
// configuration entry turbo_onnx.arena says so, where this release of ONNX Runtime takes no allocator from a library
// (before 1.23), and where the options already say something about allocators, which is then left alone. Throws
// InvalidArgument where the entry says what is not a policy. Wants the registration lock.
Policy install(const abi::OrtApi* api, abi::OrtSessionOptions* options);

// A session is being made, of options that `install` returned a policy for. The environment has the allocator from now
// on, also where the one that there was when the library was registered is gone, or there was none.
void provide(const abi::OrtApi* api) noexcept;

}  // namespace turbo_onnx::arena
