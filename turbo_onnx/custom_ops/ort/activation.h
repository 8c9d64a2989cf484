// The activation that an attribute names.
#pragma once

#include <string>

#include "custom_ops/cpu/activation.h"
#include "custom_ops/ort/tensor.h"

namespace turbo_onnx {

// Throws the sentence for a name that there is not; "none" is one only where that is `allowed`.
inline Activation activation_named(const std::string& name, bool none_allowed) {
  constexpr const char* kNames[] = {"gelu", "gelu_tanh", "silu", "relu", "sigmoid"};
  int place = 0;
  for (const char* known : kNames) {
    if (name == known) return static_cast<Activation>(place);
    ++place;
  }
  if (none_allowed && name == "none") return Activation::kNone;
  refuse("activation is \"", name, "\", but must be \"gelu\", \"gelu_tanh\", \"silu\", \"relu\" or \"sigmoid\"",
         none_allowed ? ", or \"none\"" : "");
}

}  // namespace turbo_onnx
