// The activations of feed-forward layers, a vector at a time.
#pragma once

#include "custom_ops/cpu/activation.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {

struct Gelu {
  TURBO_INLINE Vec operator()(Vec x) const {
    const Vec half = x * Vec(0.5f);
    return fma(half, erf(x * Vec(0.70710678f)), half);
  }
};

// Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
struct GeluByTanh {
  TURBO_INLINE Vec operator()(Vec x) const {
    const Vec half = x * Vec(0.5f);
    const Vec cubic = fma(x * x * x, Vec(0.044715f), x);
    return fma(half, tanh(cubic * Vec(0.79788456f)), half);
  }
};

// x / (1 + e^-x). Where e^-x overflows the quotient is 0; of -inf it is NaN, as the product with the sigmoid is.
struct Silu {
  TURBO_INLINE Vec operator()(Vec x) const { return x / (Vec(1.0f) + exp(-x)); }
};

struct Relu {
  TURBO_INLINE Vec operator()(Vec x) const { return max(Vec(0.0f), x); }
};

struct Sigmoid {
  TURBO_INLINE Vec operator()(Vec x) const { return Vec(1.0f) / (Vec(1.0f) + exp(-x)); }
};

struct Unchanged {
  TURBO_INLINE Vec operator()(Vec x) const { return x; }
};

// Calls body with the function that does it.
template <class Body>
TURBO_INLINE void with(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::kGelu:
      return body(Gelu{});
    case Activation::kGeluByTanh:
      return body(GeluByTanh{});
    case Activation::kSilu:
      return body(Silu{});
    case Activation::kRelu:
      return body(Relu{});
    case Activation::kSigmoid:
      return body(Sigmoid{});
    case Activation::kNone:
      return body(Unchanged{});
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
