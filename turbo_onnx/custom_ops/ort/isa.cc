// Which copy of the kernels runs: asked of the processor once.
#include <cstdlib>
#include <cstring>

#include "custom_ops/ort/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace turbo_onnx {

namespace baseline {
extern const Kernels kKernels;
}

#if defined(TURBO_X86_ISAS)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

namespace {

enum Level { kBaseline, kAvx2, kAvx512 };

// What the operating system saves when it switches threads: register XCR0.
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

Level supported() {
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return kBaseline;
  constexpr uint32_t kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kFirst = kFma | kOsXsave | kAvx | kF16c;
  if ((c & kFirst) != kFirst || (saved_state() & kYmmState) != kYmmState) return kBaseline;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return kBaseline;
  constexpr uint32_t kAvx2Bit = 1u << 5;
  constexpr uint32_t kAvx512Bits = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  if (!(b & kAvx2Bit)) return kBaseline;
  if ((b & kAvx512Bits) != kAvx512Bits || (saved_state() & kZmmState) != kZmmState) return kAvx2;
  return kAvx512;
}

Level allowed() {
  const char* wish = std::getenv("TURBO_ONNX_ISA");
  if (wish != nullptr && std::strcmp(wish, "baseline") == 0) return kBaseline;
  if (wish != nullptr && std::strcmp(wish, "avx2") == 0) return kAvx2;
  return kAvx512;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    const Level level = supported() < allowed() ? supported() : allowed();
    return level == kAvx512 ? avx512::kKernels : level == kAvx2 ? avx2::kKernels : baseline::kKernels;
  }();
  return chosen;
}

#else

const Kernels& kernels() { return baseline::kKernels; }

#endif

}  // namespace turbo_onnx
