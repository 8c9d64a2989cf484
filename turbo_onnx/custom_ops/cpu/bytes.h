// Vectors of floats as unsigned bytes.
#pragma once

#include "custom_ops/cpu/vector.h"

namespace turbo_onnx {
namespace TURBO_ISA {

// Writes kLanes bytes: each number rounded to a whole one, half to even, plus the offset, and the nearest byte of that.
// Numbers that are no int32 give any byte.
TURBO_INLINE void store_bytes(uint8_t* p, Vec a, int32_t offset) {
#if defined(__AVX512F__)
  const __m512i whole = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(0xffff, a.v), _mm512_set1_epi32(offset));
  const __m512i positive = _mm512_maskz_max_epi32(0xffff, whole, _mm512_setzero_si512());
  const __m128i bytes = _mm512_maskz_cvtusepi32_epi8(0xffff, positive);
  std::memcpy(p, &bytes, kLanes);
#elif defined(__AVX2__) && defined(__FMA__)
  const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(a.v), _mm256_set1_epi32(offset));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  const __m128i bytes = _mm_packus_epi16(words, words);
  std::memcpy(p, &bytes, kLanes);
#elif defined(__SSE2__)
  const __m128i whole = _mm_add_epi32(_mm_cvtps_epi32(a.v), _mm_set1_epi32(offset));
  const __m128i words = _mm_packs_epi32(whole, whole);
  const __m128i bytes = _mm_packus_epi16(words, words);
  std::memcpy(p, &bytes, kLanes);
#elif defined(__aarch64__)
  const int32x4_t whole = vaddq_s32(vcvtnq_s32_f32((float32x4_t)a.v), vdupq_n_s32(offset));
  const int16x4_t words = vqmovn_s32(whole);
  const uint8x8_t bytes = vqmovun_s16(vcombine_s16(words, words));
  std::memcpy(p, &bytes, kLanes);
#else
  for (size_t i = 0; i < kLanes; ++i) {
    const int32_t whole = static_cast<int32_t>(__builtin_lrintf(a.v[i])) + offset;
    p[i] = static_cast<uint8_t>(whole < 0 ? 0 : whole > 255 ? 255 : whole);
  }
#endif
}

// The same of 64 numbers, of which int32 must hold every one plus the offset.
TURBO_INLINE void store_line_of_bytes(uint8_t* p, const Vec (&a)[64 / kLanes], int32_t offset) {
#if defined(__AVX512BW__)
  const auto whole = [&](size_t i) { return _mm512_maskz_cvtps_epi32(0xffff, a[i].v); };
  const __m512i offsets = _mm512_set1_epi16(static_cast<int16_t>(offset));
  const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(whole(0), whole(1)), offsets);
  const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(whole(2), whole(3)), offsets);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_maskz_permutexvar_epi32(0xffff, order, _mm512_packus_epi16(low, high)));
#else
  for (size_t i = 0; i < 64 / kLanes; ++i) store_bytes(p + i * kLanes, a[i], offset);
#endif
}

// Only the first `count` of them.
TURBO_INLINE void store_bytes(uint8_t* p, Vec a, int32_t offset, size_t count) {
  uint8_t all[kLanes];
  store_bytes(all, a, offset);
  for (size_t i = 0; i < count; ++i) p[i] = all[i];
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
