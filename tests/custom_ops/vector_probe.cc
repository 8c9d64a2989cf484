// What vector.h computes, for test_vector.py: compiled there once for each instruction set.
#include "custom_ops/cpu/vector.h"

namespace isa = turbo_onnx::TURBO_ISA;
using isa::kLanes;
using isa::Vec;

extern "C" size_t lanes() { return kLanes; }

// y = f(x) through partial loads and stores of every length. The function is 0 exp, 1 exp_below_overflow, 2 erf,
// 3 tanh, 4 sqrt.
extern "C" void apply(int function, const float* x, float* y, size_t count) {
  for (size_t at = 0, step = 1; at < count; at += step, step = step % kLanes + 1) {
    if (step > count - at) step = count - at;
    const Vec v = isa::load(x + at, step);
    const Vec r = function == 0   ? isa::exp(v)
                  : function == 1 ? isa::exp_below_overflow(v)
                  : function == 2 ? isa::erf(v)
                  : function == 3 ? isa::tanh(v)
                                  : isa::sqrt(v);
    isa::store(y + at, r, step);
  }
}

extern "C" float sum(const float* x) { return isa::hsum(isa::load(x)); }

extern "C" float largest(const float* x) { return isa::hmax(isa::load(x)); }

// x and y are kLanes x kLanes.
extern "C" void transposed(const float* x, float* y) {
  Vec rows[kLanes];
  for (size_t i = 0; i < kLanes; ++i) rows[i] = isa::load(x + i * kLanes);
  isa::transpose(rows);
  for (size_t i = 0; i < kLanes; ++i) isa::store(y + i * kLanes, rows[i]);
}

// x is kLanes x kLanes, y its sums by row.
extern "C" void row_sums(const float* x, float* y) {
  Vec rows[kLanes];
  for (size_t i = 0; i < kLanes; ++i) rows[i] = isa::load(x + i * kLanes);
  isa::store(y, isa::sums_of(rows));
}

// 0 min, 1 max, 2 select_less(a, b, a, b), 3 copysign, of one vector each.
extern "C" void combine(int function, const float* a, const float* b, float* y) {
  const Vec left = isa::load(a), right = isa::load(b);
  isa::store(y, function == 0   ? isa::min(left, right)
                : function == 1 ? isa::max(left, right)
                : function == 2 ? isa::select_less(left, right, left, right)
                                : isa::copysign(left, right));
}
