// The contract between Python and the kernels: plain C, no C++ type crosses it.
//
//     logits = [S +] c(i - j) + W2 LeakyReLU(W1 S + u(i - j)),   S = scale * q k^T at one pair of all heads
//     P = softmax over the keys that row i may see,  out = P v
//
// u and c hold what the position bias adds to the two layers of the mixer, one column per offset i - j (query position
// minus key position). `hidden` = 0 leaves the mixer out: a static bias. Queries are the last rows of the keys, so
// query row r stands at position r + keys - queries.
//
// With `pieces` > 0, u and c are not tables but piecewise linear in one number per pair (FIRE):
//
//     x(i, j) = numerator(i - j) * inverse(i),   u = slope * x + intercept on the piece that x lies on, and so is c
//
// All tensors are contiguous, row-major. Input and output elements are float32 or bfloat16 (by the entry point),
// everything else is float32. `Problem` is mirrored field by field in function.py: 8-byte fields only, and a change
// raises the ABI number.
#pragma once

#include <stdint.h>

#define MEGADAPE_NATIVE_ABI 2

struct Problem {
  int64_t batch, heads, queries, keys, head_dim, hidden;
  int64_t offsets;       // columns of u and c, or of numerator
  int64_t first_offset;  // i - j at column 0
  int64_t causal;        // 0 or 1: row i sees keys 0 .. i, or all
  int64_t residual;      // 0 or 1: the logits contain S itself
  int64_t threads;
  int64_t pieces;        // 0: u and c are tables
  double scale;

  const void *q;  // [batch, heads, queries, head_dim]
  const void *k;  // [batch, heads, keys, head_dim]
  const void *v;
  const float *w1;  // [hidden, heads]
  const float *w2;  // [heads, hidden]
  const float *u;   // [hidden, offsets]; of pieces [2, hidden, pieces]: slopes, then intercepts
  const float *c;   // [heads, offsets]; of pieces [2, heads, pieces]

  // pieces only
  const float *edges;      // [pieces - 1], increasing: piece p ends with x = edges[p], where piece p + 1 begins
  const float *numerator;  // [offsets]
  const float *inverse;    // [queries]

  void *out;   // as q
  float *lse;  // [batch, heads, queries]: logarithm of the softmax's denominator

  // backward only; gradients are float32 and all but that of q are added to what is there
  const void *dout;  // as out
  float *dq, *dk, *dv, *dw1, *dw2, *du, *dc, *dnumerator, *dinverse;
};

enum Status { kDone = 0, kOutOfMemory = 1 };

// One build of the kernels, for one instruction set.
struct Kernels {
  int (*forward)(const Problem *);
  int (*backward)(const Problem *);
  int (*forward_bfloat16)(const Problem *);  // null where the instruction set has no bfloat16 products
  int (*backward_bfloat16)(const Problem *);
};

extern const Kernels kernels_portable;
#ifdef __x86_64__
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512bf16;
#endif
