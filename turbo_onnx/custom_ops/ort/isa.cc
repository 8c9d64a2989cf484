// Which copy of the kernels runs: asked of the processor once.
#include <cstdlib>
#include <cstring>

#include "custom_ops/ort/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
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
namespace avx512_vnni {
ByteProduct byte_product;
}
namespace amx_int8 {
ByteProduct byte_product;
}

namespace {

enum Level { kBaseline, kAvx2, kAvx512, kAvx512Vnni, kAmxInt8 };
constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_vnni", "amx_int8"};

// What the operating system saves when it switches threads: register XCR0.
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// The registers of AMX are large, so Linux wants to be asked for them, for the whole process. It refuses where they do
// not fit onto a signal's stack.
bool tiles_granted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Level supported(Level most) {
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6, kTileState = 0x60000;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return kBaseline;
  constexpr uint32_t kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kFirst = kFma | kOsXsave | kAvx | kF16c;
  if ((c & kFirst) != kFirst || (saved_state() & kYmmState) != kYmmState) return kBaseline;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return kBaseline;
  constexpr uint32_t kAvx2Bit = 1u << 5;
  constexpr uint32_t kAvx512Bits = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  constexpr uint32_t kVnniBit = 1u << 11, kAmxBits = 1u << 24 | 1u << 25;      // TILE, INT8
  if (!(b & kAvx2Bit)) return kBaseline;
  if ((b & kAvx512Bits) != kAvx512Bits || (saved_state() & kZmmState) != kZmmState) return kAvx2;
  if (!(c & kVnniBit)) return kAvx512;
  if ((d & kAmxBits) != kAmxBits || (saved_state() & kTileState) != kTileState) return kAvx512Vnni;
  return most == kAmxInt8 && tiles_granted() ? kAmxInt8 : kAvx512Vnni;
}

Level allowed() {
  const char* wish = std::getenv("TURBO_ONNX_ISA");
  for (int level = kBaseline; wish != nullptr && level < kAmxInt8; ++level) {
    if (std::strcmp(wish, kNames[level]) == 0) return static_cast<Level>(level);
  }
  return kAmxInt8;
}

// Beyond AVX-512 there are instructions for products of bytes only; everything else stays as it is.
Kernels with_byte_product(ByteProduct* product, Level level) {
  Kernels kernels = avx512::kKernels;
  kernels.isa = kNames[level];
  kernels.byte_product = product;
  return kernels;
}

Kernels chosen() {
  const Level most = allowed(), best = supported(most), level = best < most ? best : most;
  switch (level) {
    case kBaseline:
      return baseline::kKernels;
    case kAvx2:
      return avx2::kKernels;
    case kAvx512:
      return avx512::kKernels;
    case kAvx512Vnni:
      return with_byte_product(avx512_vnni::byte_product, level);
    default:
      return with_byte_product(amx_int8::byte_product, level);
  }
}

}  // namespace

const Kernels& kernels() {
  static const Kernels table = chosen();
  return table;
}

#else

const Kernels& kernels() { return baseline::kKernels; }

#endif

}  // namespace turbo_onnx
