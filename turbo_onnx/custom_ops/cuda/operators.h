// The operators of the domain turbo_onnx.cuda.
#pragma once

#include <vector>

#include "custom_ops/ort/abi.h"

namespace turbo_onnx::cuda {

constexpr const char* kDomain = "turbo_onnx.cuda";

// Adds every operator on its compiled kernels, for the execution provider that is named.
void add_operators(std::vector<const abi::OrtCustomOp*>& ops, const char* provider);

}  // namespace turbo_onnx::cuda
