#pragma once

namespace turbo_onnx {

// Which of `activations.h`: in the order in which keys of CUDA kernels count them. kNone leaves numbers as they are.
enum class Activation { kGelu, kGeluByTanh, kSilu, kRelu, kSigmoid, kNone };

}  // namespace turbo_onnx
