// One vector of floats, as wide as the instruction set that this translation unit is compiled for.
//
// Every kernel source is compiled once for each instruction set, with -DTURBO_ISA=baseline|avx2|avx512 and the matching
// -m flags. Everything here lives in namespace turbo_onnx::TURBO_ISA, so that the copies never meet. For the same
// reason kernels must not call function templates of the standard library that the compiler may leave out of line: the
// linker keeps one copy of those, and may keep the one that the machine cannot execute.
//
// Nothing here needs, or survives, -ffast-math.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#else
#include <cmath>
#endif

#ifndef TURBO_ISA
#define TURBO_ISA baseline
#endif

#define TURBO_INLINE inline __attribute__((always_inline))

namespace turbo_onnx {
namespace TURBO_ISA {

#if defined(__AVX512F__)
constexpr size_t kLanes = 16;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr size_t kLanes = 8;
#else
constexpr size_t kLanes = 4;
#endif

typedef float FloatLanes __attribute__((vector_size(kLanes * 4), may_alias));
typedef int32_t IntLanes __attribute__((vector_size(kLanes * 4), may_alias));
typedef uint32_t BitLanes __attribute__((vector_size(kLanes * 4), may_alias));  // for integers that may wrap around

// kLanes floats. Arithmetic is IEEE, lane by lane.
struct Vec {
  FloatLanes v;

  TURBO_INLINE Vec() {}
  TURBO_INLINE Vec(FloatLanes lanes) : v(lanes) {}
  TURBO_INLINE explicit Vec(float x) : v(x - FloatLanes{}) {}

  TURBO_INLINE Vec& operator+=(Vec b) { return v = v + b.v, *this; }
  TURBO_INLINE Vec& operator*=(Vec b) { return v = v * b.v, *this; }
};

TURBO_INLINE Vec operator+(Vec a, Vec b) { return a.v + b.v; }
TURBO_INLINE Vec operator-(Vec a, Vec b) { return a.v - b.v; }
TURBO_INLINE Vec operator*(Vec a, Vec b) { return a.v * b.v; }
TURBO_INLINE Vec operator/(Vec a, Vec b) { return a.v / b.v; }
TURBO_INLINE Vec operator-(Vec a) { return -a.v; }

// 0, 1, 2, ...
TURBO_INLINE Vec lane_numbers() {
  FloatLanes r;
  for (size_t i = 0; i < kLanes; ++i) r[i] = static_cast<float>(i);
  return r;
}

// ---- memory: no alignment is needed. Partial forms touch only the first `count` <= kLanes floats; the other lanes
// load as zero.

TURBO_INLINE Vec load(const float* p) {
  Vec r;
  std::memcpy(&r.v, p, sizeof(r.v));
  return r;
}

TURBO_INLINE void store(float* p, Vec a) { std::memcpy(p, &a.v, sizeof(a.v)); }

#if defined(__AVX512F__)

TURBO_INLINE __mmask16 first_lanes(size_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
TURBO_INLINE Vec load(const float* p, size_t count) { return Vec(_mm512_maskz_loadu_ps(first_lanes(count), p)); }
TURBO_INLINE void store(float* p, Vec a, size_t count) { _mm512_mask_storeu_ps(p, first_lanes(count), a.v); }

#elif defined(__AVX2__) && defined(__FMA__)

TURBO_INLINE __m256i first_lanes(size_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
}
TURBO_INLINE Vec load(const float* p, size_t count) { return Vec(_mm256_maskload_ps(p, first_lanes(count))); }
TURBO_INLINE void store(float* p, Vec a, size_t count) { _mm256_maskstore_ps(p, first_lanes(count), a.v); }

#else

TURBO_INLINE Vec load(const float* p, size_t count) {
  float lanes[kLanes] = {};
  for (size_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
TURBO_INLINE void store(float* p, Vec a, size_t count) {
  for (size_t i = 0; i < count; ++i) p[i] = a.v[i];
}

#endif

// ---- arithmetic with an instruction of its own. The AVX-512 forms with a full zero mask compile to the plain ones,
// whose GCC 12 definitions read an uninitialised value.

// a * b + c; one rounding where the instruction set has it (AVX2, AVX-512, NEON), two elsewhere.
TURBO_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return Vec(_mm512_fmadd_ps(a.v, b.v, c.v));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vec(_mm256_fmadd_ps(a.v, b.v, c.v));
#elif defined(__aarch64__)
  return Vec((FloatLanes)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v));
#else
  return a * b + c;
#endif
}

// a < b ? x : y, lane by lane (y where either is NaN).
TURBO_INLINE Vec select_less(Vec a, Vec b, Vec x, Vec y) {
#if defined(__AVX512F__)
  return Vec(_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vec(_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)));
#else
  const IntLanes less = a.v < b.v;
  return Vec((FloatLanes)(((IntLanes)x.v & less) | ((IntLanes)y.v & ~less)));
#endif
}

// min and max give b where either is NaN: write the constant or the running value first and the data second, and NaN
// in the data is kept.
TURBO_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_min_ps(0xffff, a.v, b.v));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vec(_mm256_min_ps(a.v, b.v));
#elif defined(__SSE2__)
  return Vec(_mm_min_ps(a.v, b.v));
#else
  return select_less(a, b, a, b);
#endif
}

TURBO_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_max_ps(0xffff, a.v, b.v));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vec(_mm256_max_ps(a.v, b.v));
#elif defined(__SSE2__)
  return Vec(_mm_max_ps(a.v, b.v));
#else
  return select_less(b, a, a, b);
#endif
}

TURBO_INLINE Vec sqrt(Vec a) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_sqrt_ps(0xffff, a.v));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vec(_mm256_sqrt_ps(a.v));
#elif defined(__SSE2__)
  return Vec(_mm_sqrt_ps(a.v));
#elif defined(__aarch64__)
  return Vec((FloatLanes)vsqrtq_f32((float32x4_t)a.v));
#else
  Vec r;
  for (size_t i = 0; i < kLanes; ++i) r.v[i] = __builtin_sqrtf(a.v[i]);
  return r;
#endif
}

TURBO_INLINE Vec abs(Vec a) { return Vec((FloatLanes)((IntLanes)a.v & (IntLanes{} + 0x7fffffff))); }

// The magnitude of a with the sign of b.
TURBO_INLINE Vec copysign(Vec a, Vec b) {
  const IntLanes magnitude = IntLanes{} + 0x7fffffff;
  return Vec((FloatLanes)(((IntLanes)a.v & magnitude) | ((IntLanes)b.v & ~magnitude)));
}

// ---- across the lanes of one vector

// The lanes moved down by kBy, a power of two below kLanes; what comes in at the top is not defined.
template <size_t kBy>
TURBO_INLINE Vec moved_down(Vec a) {
#if defined(__AVX512F__)
  if (kBy == 8) return Vec(_mm512_maskz_shuffle_f32x4(0xffff, a.v, a.v, 0x4e));
  if (kBy == 4) return Vec(_mm512_maskz_shuffle_f32x4(0xffff, a.v, a.v, 0xb1));
  return Vec(_mm512_maskz_permute_ps(0xffff, a.v, kBy == 2 ? 0x4e : 0xb1));
#elif defined(__AVX2__) && defined(__FMA__)
  if (kBy == 4) return Vec(_mm256_permute2f128_ps(a.v, a.v, 0x01));
  return Vec(_mm256_permute_ps(a.v, kBy == 2 ? 0x4e : 0xb1));
#elif defined(__SSE2__)
  return Vec(_mm_shuffle_ps(a.v, a.v, kBy == 2 ? 0x4e : 0xb1));
#else
  Vec r = a;
  for (size_t i = 0; i + kBy < kLanes; ++i) r.v[i] = a.v[i + kBy];
  return r;
#endif
}

// The lanes 2i and 2i + 1 in each other's place.
TURBO_INLINE Vec pairs_swapped(Vec a) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_permute_ps(0xffff, a.v, 0xb1));
#elif defined(__AVX2__) && defined(__FMA__)
  return Vec(_mm256_permute_ps(a.v, 0xb1));
#elif defined(__SSE2__)
  return Vec(_mm_shuffle_ps(a.v, a.v, 0xb1));
#elif defined(__aarch64__)
  return Vec((FloatLanes)vrev64q_f32((float32x4_t)a.v));
#else
  Vec r;
  for (size_t i = 0; i < kLanes; ++i) r.v[i] = a.v[i ^ 1];
  return r;
#endif
}

TURBO_INLINE Vec even_lanes_negated(Vec a) {
  IntLanes sign;
  for (size_t i = 0; i < kLanes; ++i) sign[i] = i % 2 ? 0 : INT32_MIN;
  return Vec((FloatLanes)((IntLanes)a.v ^ sign));
}

// Pairwise, in one fixed order.
TURBO_INLINE float hsum(Vec a) {
  if (kLanes > 8) a += moved_down<8>(a);
  if (kLanes > 4) a += moved_down<4>(a);
  a += moved_down<2>(a);
  return a.v[0] + a.v[1];
}

// NaN lanes may be lost.
TURBO_INLINE float hmax(Vec a) {
  if (kLanes > 8) a = max(a, moved_down<8>(a));
  if (kLanes > 4) a = max(a, moved_down<4>(a));
  a = max(a, moved_down<2>(a));
  return a.v[0] > a.v[1] ? a.v[0] : a.v[1];
}

// a0 b0 a1 b1 ... of the lower halves of a and b, and of the upper halves.
TURBO_INLINE void zip(Vec a, Vec b, Vec& lower, Vec& upper) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  lower = Vec(_mm512_permutex2var_ps(a.v, low, b.v));
  upper = Vec(_mm512_permutex2var_ps(a.v, high, b.v));
#elif defined(__AVX2__) && defined(__FMA__)
  const __m256 even = _mm256_unpacklo_ps(a.v, b.v);
  const __m256 odd = _mm256_unpackhi_ps(a.v, b.v);
  lower = Vec(_mm256_permute2f128_ps(even, odd, 0x20));
  upper = Vec(_mm256_permute2f128_ps(even, odd, 0x31));
#elif defined(__SSE2__)
  lower = Vec(_mm_unpacklo_ps(a.v, b.v));
  upper = Vec(_mm_unpackhi_ps(a.v, b.v));
#else
  for (size_t i = 0; i < kLanes; ++i) {
    lower.v[i] = (i % 2 ? b : a).v[i / 2];
    upper.v[i] = (i % 2 ? b : a).v[kLanes / 2 + i / 2];
  }
#endif
}

// The transpose of kLanes vectors of kLanes floats: zipping the first half with the second moves one bit of the row
// number into the column number, so log2(kLanes) rounds swap the two.
TURBO_INLINE void transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (size_t round = kLanes; round > 1; round /= 2) {
    Vec zipped[kLanes];
#pragma GCC unroll 8
    for (size_t i = 0; i < kLanes / 2; ++i) zip(rows[i], rows[i + kLanes / 2], zipped[2 * i], zipped[2 * i + 1]);
#pragma GCC unroll 16
    for (size_t i = 0; i < kLanes; ++i) rows[i] = zipped[i];
  }
}

// In lane i the sum of rows[i]. As the transpose does, but what is zipped is added up, so that half of it is left.
TURBO_INLINE Vec sums_of(Vec (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (size_t left = kLanes / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
    for (size_t i = 0; i < left; ++i) {
      Vec lower, upper;
      zip(rows[i], rows[i + left], lower, upper);
      rows[i] = lower + upper;
    }
  }
  return rows[0];
}

// ---- functions. Polynomials are minimax fits made for this file; Horner's scheme.

template <size_t N>
TURBO_INLINE Vec polynomial(Vec x, const float (&coefficients)[N]) {
  Vec r(coefficients[N - 1]);
  for (size_t i = N - 1; i-- > 0;) r = fma(r, x, Vec(coefficients[i]));
  return r;
}

// e^x = p * 2^n with p in [0.7, 1.42] and n a whole number, by Cody and Waite's reduction x = n ln 2 + r. ln 2 is split
// so that n times its first part is exact. `shifted` holds n in its low mantissa bits.
struct PowerOfTwoTimes {
  Vec p, n, shifted;
};

TURBO_INLINE PowerOfTwoTimes exp_parts(Vec x) {
  static constexpr float kTail[] = {0.49999994f, 0.16666520f, 0.041668404f, 0.0083688991f, 0.0013814222f};
  const Vec to_integer(12582912.0f);  // 1.5 * 2^23: adding it leaves a whole number
  const Vec shifted = fma(x, Vec(1.44269504f), to_integer);
  const Vec n = shifted - to_integer;
  const Vec r = fma(n, Vec(2.12194440e-4f), fma(n, Vec(-0.693359375f), x));
  return {fma(polynomial(r, kTail), r * r, r) + Vec(1.0f), n, shifted};
}

constexpr float kSmallestExponent = -87.336544f;  // e^x is below the smallest normal number from here down

// e^x for x <= 88: about 1 ulp. Results below the smallest normal number are flushed to 0; -inf gives 0, NaN stays.
TURBO_INLINE Vec exp_below_overflow(Vec x) {
  const PowerOfTwoTimes e = exp_parts(x);
#if defined(__AVX512F__)
  const __mmask16 kept = _mm512_cmp_ps_mask(x.v, Vec(kSmallestExponent).v, _CMP_NLT_UQ);
  return Vec(_mm512_maskz_scalef_ps(kept, e.p.v, e.n.v));
#else
  const Vec scale((FloatLanes)(((BitLanes)e.shifted.v << 23) + 0x3f800000u));
  return select_less(x, Vec(kSmallestExponent), Vec(0.0f), e.p * scale);
#endif
}

// e^x for every x: as above, and overflows to +inf.
TURBO_INLINE Vec exp(Vec x) {
  const PowerOfTwoTimes e = exp_parts(min(Vec(90.0f), x));
#if defined(__AVX512F__)
  const __mmask16 kept = _mm512_cmp_ps_mask(x.v, Vec(kSmallestExponent).v, _CMP_NLT_UQ);
  return Vec(_mm512_maskz_scalef_ps(kept, e.p.v, e.n.v));
#else
  const BitLanes n = (BitLanes)e.shifted.v - 0x4b400000u;  // 2^n may be out of range where p * 2^n is not: two factors
  const BitLanes half = (BitLanes)((IntLanes)n >> 1);
  const Vec first((FloatLanes)((half << 23) + 0x3f800000u));
  const Vec second((FloatLanes)(((n - half) << 23) + 0x3f800000u));
  return select_less(x, Vec(kSmallestExponent), Vec(0.0f), e.p * first * second);
#endif
}

// The error function: absolute error about 1e-7, relative error about 1e-7 near 0; NaN stays.
TURBO_INLINE Vec erf(Vec x) {
  static constexpr float kNear[] = {0.12837917f,   -0.37612632f,   0.11283664f,  -0.026857706f,
                                    0.0051969518f, -8.0977025e-4f, 8.1850897e-5f};  // erf(x) / x - 1 in x^2, |x| < 0.95
  static constexpr float kFar[] = {-2.5644494e-4f, -1.1274261f,    -0.63760006f, -0.10356689f,
                                   0.022051999f,   -0.0029995409f, 1.9150416e-4f};  // log(1 - erf(x)) in x
  const Vec magnitude = min(Vec(3.95f), abs(x));
  const Vec near_zero = fma(polynomial(x * x, kNear), x, x);
  const Vec far = copysign(Vec(1.0f) - exp_below_overflow(polynomial(magnitude, kFar)), x);
  return select_less(magnitude, Vec(0.95f), near_zero, far);
}

// The hyperbolic tangent: absolute error about 1e-7, relative error about 2e-7 near 0; NaN stays.
TURBO_INLINE Vec tanh(Vec x) {
  static constexpr float kNear[] = {-0.33333281f, 0.13331442f, -0.053739715f, 0.020639086f,
                                    -0.0057049850f};  // (tanh(x) / x - 1) / x^2 in x^2, |x| < 0.625
  const Vec magnitude = min(Vec(10.0f), abs(x));
  const Vec square = x * x;
  const Vec near_zero = fma(polynomial(square, kNear) * square, x, x);
  const Vec e = exp_below_overflow(magnitude + magnitude);
  const Vec far = copysign(Vec(1.0f) - Vec(2.0f) / (e + Vec(1.0f)), x);
  return select_less(magnitude, Vec(0.625f), near_zero, far);
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
