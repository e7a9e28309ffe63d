// A vector of 16 floats: AVX-512. See vector_portable.h for what each function means.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

namespace {

constexpr int kLanes = 16;     // floats in a vector
constexpr int kTileRows = 8;   // rows of a register tile of two vectors: 16 of the 32 registers accumulate
constexpr int kMaxRows = 12;   // the largest tile that the mixer's second layer uses

using Vec = __m512;
using Mask = __mmask16;

INLINE Vec load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, Vec a) { _mm512_storeu_ps(p, a); }
INLINE Vec broadcast(float x) { return _mm512_set1_ps(x); }
INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
INLINE float sum(Vec a) { return _mm512_reduce_add_ps(a); }

INLINE Mask lanes_from(int64_t first) {
  return first <= 0 ? 0xffff : first >= kLanes ? 0 : static_cast<Mask>(0xffffu << first);
}
INLINE Vec select(Mask keep, Vec a, Vec b) { return _mm512_mask_blend_ps(keep, b, a); }
INLINE Mask greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
INLINE bool all_greater(Vec a, Vec b) { return greater(a, b) == 0xffff; }
INLINE bool any_greater(Vec a, Vec b) { return greater(a, b) != 0; }
INLINE Vec scale_unless_positive(Vec a, Vec x, float factor) {
  return _mm512_mask_mul_ps(a, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NGT_UQ), a, broadcast(factor));
}

// 2^t = 2^floor(t) * polynomial of the rest in [0, 1); relative error 1e-7
INLINE Vec exp2(Vec t, Mask keep) {
  const Vec f = _mm512_reduce_ps(t, 0x01);
  Vec p = fma(broadcast(0.0018775767f), f, broadcast(0.0089893406f));
  p = fma(p, f, broadcast(0.055826317f));
  p = fma(p, f, broadcast(0.24015361f));
  p = fma(p, f, broadcast(0.69315308f));
  p = fma(p, f, broadcast(0.99999994f));
  return _mm512_maskz_scalef_ps(keep, p, t);
}

}  // namespace
