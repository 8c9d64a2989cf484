#include "custom_ops/gated_activation/cpu.h"

#include "custom_ops/cpu/activations.h"
#include "custom_ops/cpu/rows.h"
#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

template <class Function, class Load>
TURBO_INLINE void row(GatedOperand gate, GatedOperand up, float* y, size_t width, Function activation, Load loaded) {
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(y + i, activation(loaded(gate, i, kLanes)) * loaded(up, i, kLanes));
  if (i < width) store(y + i, activation(loaded(gate, i, width - i)) * loaded(up, i, width - i), width - i);
}

TURBO_INLINE Vec some(const float* p, size_t count) { return count == kLanes ? load(p) : load(p, count); }

struct Plain {
  TURBO_INLINE Vec operator()(GatedOperand x, size_t i, size_t count) const { return some(x.rows + i, count); }
};

struct Biased {
  TURBO_INLINE Vec operator()(GatedOperand x, size_t i, size_t count) const {
    return some(x.rows + i, count) + some(x.bias + i, count);
  }
};

template <class Function>
void run(GatedOperand gate, GatedOperand up, size_t stride, float* y, size_t rows, size_t width, Function activation,
         const Parallel& parallel) {
  for_row_blocks(rows, 2 * width, parallel, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      const GatedOperand here{gate.rows + r * stride, gate.bias}, beside{up.rows + r * stride, up.bias};
      if (gate.bias == nullptr) {
        row(here, beside, y + r * width, width, activation, Plain{});
      } else {
        row(here, beside, y + r * width, width, activation, Biased{});
      }
    }
  });
}

}  // namespace

void gated_activation(GatedOperand gate, GatedOperand up, size_t stride, float* y, size_t rows, size_t width,
                      Activation activation, const Parallel& parallel) {
  with(activation, [&](auto function) { run(gate, up, stride, y, rows, width, function, parallel); });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
