// The mixer: logits = [S +] c + W2 LeakyReLU(W1 S + u) at every pair, as two small matrix products over the lanes.
//
// One call handles one key against one panel of queries, all heads: S is [heads, kPanel], the hidden layer
// [hidden, kPanel] never leaves the first-level cache. u and c are rows of tables over the offset i - j; since the
// lanes are consecutive queries, a row starts at the offset of lane 0 and is read as it lies. (Or rows are computed:
// pieces.h.)
#pragma once

namespace {

constexpr float kSlope = 0.01f;  // of LeakyReLU

// What a position bias adds to the two layers, for kPanel consecutive queries.
struct BiasRow {
  const float *u, *c;
  int64_t u_step, c_step;  // from one hidden unit, or head, to the next
};

// u and c with room at both ends, so that lanes outside the sequence read zeros and not foreign memory.
struct BiasTable {
  float *u, *c;
  int64_t step, first_offset;

  BiasTable(Arena &arena, const Plan &plan)
      : step(plan.problem.pieces > 0 ? 0 : plan.problem.offsets + 2 * kTablePad) {
    u = arena.take<float>(plan.padded_hidden * step);
    c = arena.take<float>(plan.padded_heads * step);
    first_offset = plan.problem.first_offset;
  }
  void clear(const Plan &plan) {
    fill(u, plan.padded_hidden * step, 0.f);
    fill(c, plan.padded_heads * step, 0.f);
  }
  void read(const Plan &plan) {
    const int64_t offsets = plan.problem.offsets;
    clear(plan);
    for (int64_t m = 0; m < plan.hidden; ++m)
      memcpy(u + m * step + kTablePad, plan.problem.u + m * offsets, offsets * sizeof(float));
    for (int64_t h = 0; h < plan.heads; ++h)
      memcpy(c + h * step + kTablePad, plan.problem.c + h * offsets, offsets * sizeof(float));
  }
  // adds what has been collected here to du and dc
  void add_to(const Plan &plan, float *du, float *dc) const {
    const int64_t offsets = plan.problem.offsets;
    for (int64_t m = 0; m < plan.hidden; ++m)
      for (int64_t n = 0; n < offsets; ++n) du[m * offsets + n] += u[m * step + kTablePad + n];
    for (int64_t h = 0; h < plan.heads; ++h)
      for (int64_t n = 0; n < offsets; ++n) dc[h * offsets + n] += c[h * step + kTablePad + n];
  }
  int64_t column(int64_t offset) const { return offset - first_offset + kTablePad; }
  BiasRow row(int64_t offset) const { return {u + column(offset), c + column(offset), step, step}; }
};

// A weight matrix as the left operand of a product: words [depth, rows], rows padded with zeros.
template <class Number>
struct Weights {
  using Word = typename Number::Word;
  Word *words;
  int64_t depth, rows;  // depth in words

  Weights(Arena &arena, int64_t depth_, int64_t rows_)
      : words(arena.take<Word>(blocks_of(depth_, Number::kPerWord) * rows_)),
        depth(blocks_of(depth_, Number::kPerWord)),
        rows(rows_) {}

  // weight(row, depth) = factor * from[row * row_step + depth * depth_step]
  void read(const float *from, int64_t used_rows, int64_t used_depth, int64_t row_step, int64_t depth_step,
            float factor) {
    const auto value = [=](int64_t row, int64_t at) {
      return row < used_rows && at < used_depth ? factor * from[row * row_step + at * depth_step] : 0.f;
    };
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = 0; r < rows; ++r)
        words[k * rows + r] = Number::word(value(r, k * Number::kPerWord), value(r, k * Number::kPerWord + 1));
  }
  Left<Word> from_row(int64_t row) const { return {words + row, 1, rows}; }
};

// W1 and W2 as the forward pass multiplies with them. The scale of the scores is in W1 and in the residual, so that the
// products of queries and keys are used as they come.
template <class Number>
struct Mixer {
  Weights<Number> w1, w2;

  Mixer(Arena &arena, const Plan &plan)
      : w1(arena, plan.heads, plan.padded_hidden), w2(arena, plan.padded_hidden, plan.padded_heads) {}

  void read(const Plan &plan) {
    w1.read(plan.problem.w1, plan.hidden, plan.heads, plan.heads, 1, plan.scale);
    w2.read(plan.problem.w2, plan.heads, plan.hidden, plan.hidden, 1, 1.f);
  }
};

INLINE Vec leaky(Vec z) { return max(z, z * broadcast(kSlope)); }

template <int R>
INLINE void leaky(Tile<R> &tile) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < 2; ++n) tile.at[r][n] = leaky(tile.at[r][n]);
}

// first layer: then(m, tile) gets the hidden units m .. m + kTileRows, activated
template <class Number, class Then>
INLINE void mix_hidden(const Weights<Number> &w1, int64_t hidden, Right<typename Number::Word> scores,
                       const BiasRow &bias, Then then) {
  for (int64_t m = 0; m < hidden; m += kTileRows) {
    Tile<kTileRows> tile;
    load(tile, bias.u + m * bias.u_step, bias.u_step);
    add_product<Number>(tile, w1.depth, w1.from_row(m), scores);
    leaky(tile);
    then(m, tile);
  }
}

// calls then.template tile<R>(first) for tiles that together cover `rows`, a multiple of 4
template <class Then>
INLINE void for_row_tiles(int64_t rows, Then then) {
  int64_t r = 0;
  if (kMaxRows >= 12)
    for (; rows - r >= 12 && rows - r != 16; r += 12) then.template tile<kMaxRows>(r);
  if (kTileRows >= 8)
    for (; rows - r >= 8; r += 8) then.template tile<kTileRows>(r);
  for (; r < rows; r += 4) then.template tile<4>(r);
}

}  // namespace
