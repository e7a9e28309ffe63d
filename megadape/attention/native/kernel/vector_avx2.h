// A vector of 8 floats: AVX2 with FMA. See vector_portable.h for what each function means.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

namespace {

constexpr int kLanes = 8;
constexpr int kTileRows = 4;  // 8 of the 16 registers accumulate
constexpr int kMaxRows = 4;

using Vec = __m256;
using Mask = __m256;  // all bits of a lane, or none

INLINE Vec load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, Vec a) { _mm256_storeu_ps(p, a); }
INLINE Vec broadcast(float x) { return _mm256_set1_ps(x); }
INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
INLINE float sum(Vec a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

INLINE Mask lanes_from(int64_t first) {
  const float from = first <= 0 ? 0.f : first >= kLanes ? kLanes : static_cast<float>(first);
  return _mm256_cmp_ps(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), broadcast(from), _CMP_GE_OQ);
}
INLINE Vec select(Mask keep, Vec a, Vec b) { return _mm256_blendv_ps(b, a, keep); }
INLINE Mask greater(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
INLINE bool all_greater(Vec a, Vec b) { return _mm256_movemask_ps(greater(a, b)) == 0xff; }
INLINE bool any_greater(Vec a, Vec b) { return _mm256_movemask_ps(greater(a, b)) != 0; }
INLINE Vec scale_unless_positive(Vec a, Vec x, float factor) {
  return _mm256_blendv_ps(a * broadcast(factor), a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
}

// 2^t = 2^round(t) * polynomial of the rest in [-1/2, 1/2]; relative error 1.5e-7, 0 below 2^-126
INLINE Vec exp2(Vec t, Mask keep) {
  const Vec bounded = _mm256_max_ps(broadcast(-127.f), _mm256_min_ps(broadcast(128.f), t));  // NaN stays
  const Vec n = _mm256_round_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec f = bounded - n;
  Vec p = fma(broadcast(0.0013276475f), f, broadcast(0.0096755419f));
  p = fma(p, f, broadcast(0.055507131f));
  p = fma(p, f, broadcast(0.2402212f));
  p = fma(p, f, broadcast(0.69314694f));
  p = fma(p, f, broadcast(1.0f));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_and_ps(keep, p * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

}  // namespace
