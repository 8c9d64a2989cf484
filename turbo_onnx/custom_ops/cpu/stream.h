// Stores past the caches, for what is too large to lie in one until it is read: a line need not be fetched to be
// written.
#pragma once

#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {

// To an address that is a multiple of the vector's size.
TURBO_INLINE void stream(float* p, Vec a) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, a.v);
#elif defined(__AVX2__) && defined(__FMA__)
  _mm256_stream_ps(p, a.v);
#elif defined(__SSE2__)
  _mm_stream_ps(p, a.v);
#else
  store(p, a);
#endif
}

// After which other threads may be told that what was streamed is there.
TURBO_INLINE void streamed() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
