// A vector of 4 floats in the compiler's own vector type: any processor that GCC or Clang can compile for.
//
// This file also says what the functions of all vector_*.h mean. A kernel is written once, in terms of
//     Vec, kLanes        a vector of floats and how many it holds; + - * work lane by lane
//     Mask               which lanes count
//     kTileRows          rows of the register tile of the matrix product
// and compiled once per instruction set, each time after another vector_*.h. Everything stands in an unnamed namespace:
// the copies must not be merged by the linker, or a plain processor would be given AVX-512 instructions.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kMaxRows = 4;

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));  // all bits of a lane, or none

INLINE Vec load(const float *p) {
  Vec a;
  memcpy(&a, p, sizeof a);
  return a;
}
INLINE void store(float *p, Vec a) { memcpy(p, &a, sizeof a); }
INLINE Vec broadcast(float x) { return Vec{x, x, x, x}; }
INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
INLINE float sum(Vec a) { return (a[0] + a[1]) + (a[2] + a[3]); }

// the lanes numbered `first` and up; first may lie outside 0 .. kLanes
INLINE Mask lanes_from(int64_t first) {
  const int32_t from = first <= 0 ? 0 : first >= kLanes ? kLanes : static_cast<int32_t>(first);
  return Mask{0, 1, 2, 3} >= Mask{from, from, from, from};
}

// lane by lane: keep ? a : b
INLINE Vec select(Mask keep, Vec a, Vec b) {
  return reinterpret_cast<Vec>((reinterpret_cast<Mask>(a) & keep) | (reinterpret_cast<Mask>(b) & ~keep));
}

// the greater; b where either is NaN
INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }

// the lanes where a > b; none where either is NaN
INLINE Mask greater(Vec a, Vec b) { return a > b; }

INLINE bool all_greater(Vec a, Vec b) {
  const Mask lanes = greater(a, b);
  return (lanes[0] & lanes[1] & lanes[2] & lanes[3]) != 0;
}

INLINE bool any_greater(Vec a, Vec b) {
  const Mask lanes = greater(a, b);
  return (lanes[0] | lanes[1] | lanes[2] | lanes[3]) != 0;
}

// a in the lanes where x > 0, a * factor elsewhere
INLINE Vec scale_unless_positive(Vec a, Vec x, float factor) {
  return select(x > broadcast(0.f), a, a * broadcast(factor));
}

// 2^t in the lanes to keep, 0 elsewhere; 0 for -infinity, infinity from 128 on, NaN for NaN
INLINE Vec exp2(Vec t, Mask keep) {
  const Vec low = broadcast(-127.f), high = broadcast(128.f);
  Vec bounded = select(t < low, low, t);
  bounded = select(bounded > high, high, bounded);
  const Vec shifter = broadcast(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = bounded + shifter;
  const Vec f = bounded - (shifted - shifter);
  Vec p = fma(broadcast(0.0013276475f), f, broadcast(0.0096755419f));
  p = fma(p, f, broadcast(0.055507131f));
  p = fma(p, f, broadcast(0.2402212f));
  p = fma(p, f, broadcast(0.69314694f));
  p = fma(p, f, broadcast(1.0f));
  // the integer stands in the low bits of `shifted`; the exponent of a float begins at bit 23 and is biased by 127
  const Mask power = (reinterpret_cast<Mask>(shifted) + 127) << 23;
  return reinterpret_cast<Vec>(keep & reinterpret_cast<Mask>(p * reinterpret_cast<Vec>(power)));
}

}  // namespace
