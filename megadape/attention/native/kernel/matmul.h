// Matrix products out of register tiles.
//
// A tile is R rows x C vectors of the result, held in registers while the sum over the depth runs: per step one vector
// load for each column vector and one broadcast for each row, then R x C fused multiply-adds. With 8 x 2 vectors of 16
// floats that is 10 loads for 16 multiply-adds, which the processor hides completely.
//
// The left operand is read a word at a time, so any strides will do. The right operand is read a vector at a time, so
// its columns must be adjacent; operands that are read often are kept as panels, kPanel columns wide, one row after the
// other.
#pragma once

namespace {

constexpr int kPanel = 2 * kLanes;  // columns of the usual tile

template <class Word>
struct Left {
  const Word *data;
  int64_t row_step, depth_step;
  Left from_row(int64_t row) const { return {data + row * row_step, row_step, depth_step}; }
};

template <class Word>
struct Right {
  const Word *data;
  int64_t depth_step;
};

template <int R, int C = 2>
struct Tile {
  Vec at[R][C];
};

template <int R, int C>
INLINE void clear(Tile<R, C> &tile) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) tile.at[r][n] = broadcast(0.f);
}

template <int R, int C>
INLINE void load(Tile<R, C> &tile, const float *from, int64_t row_step) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) tile.at[r][n] = load(from + r * row_step + n * kLanes);
}

// tile += factor * from
template <int R, int C>
INLINE void add(Tile<R, C> &tile, float factor, const float *from, int64_t row_step) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n)
      tile.at[r][n] = fma(broadcast(factor), load(from + r * row_step + n * kLanes), tile.at[r][n]);
}

template <int R, int C>
INLINE void store(const Tile<R, C> &tile, float *to, int64_t row_step) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) store(to + r * row_step + n * kLanes, tile.at[r][n]);
}

// tile += a b, summed over `depth` words
template <class Number, int R, int C>
INLINE void add_product(Tile<R, C> &tile, int64_t depth, Left<typename Number::Word> a,
                        Right<typename Number::Word> b) {
#pragma GCC unroll 1
  for (int64_t k = 0; k < depth; ++k) {
    typename Number::Operand column[C];
#pragma GCC unroll 4
    for (int n = 0; n < C; ++n) column[n] = Number::load_words(b.data + k * b.depth_step + n * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename Number::Operand row = Number::broadcast_word(a.data + r * a.row_step + k * a.depth_step);
#pragma GCC unroll 4
      for (int n = 0; n < C; ++n) tile.at[r][n] = Number::multiply_add(row, column[n], tile.at[r][n]);
    }
  }
}

template <class Number, int R, int C, bool kAccumulate>
INLINE void multiply_tile(int64_t depth, Left<typename Number::Word> a, Right<typename Number::Word> b, float *out,
                          int64_t row_step) {
  Tile<R, C> tile;
  if (kAccumulate)
    load(tile, out, row_step);
  else
    clear(tile);
  add_product<Number>(tile, depth, a, b);
  store(tile, out, row_step);
}

// out [rows, C vectors] (+)= a b
template <class Number, int C, bool kAccumulate>
static void multiply_columns(int64_t rows, int64_t depth, Left<typename Number::Word> a, Right<typename Number::Word> b,
                             float *out, int64_t row_step) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    multiply_tile<Number, kTileRows, C, kAccumulate>(depth, a.from_row(r), b, out + r * row_step, row_step);
  for (; r < rows; ++r) multiply_tile<Number, 1, C, kAccumulate>(depth, a.from_row(r), b, out + r * row_step, row_step);
}

// out [rows, kPanel] = a b
template <class Number>
static void multiply_panel(int64_t rows, int64_t depth, Left<typename Number::Word> a, Right<typename Number::Word> b,
                           float *out) {
  multiply_columns<Number, 2, false>(rows, depth, a, b, out, kPanel);
}

// out [rows, columns] += a b; columns is a multiple of kLanes
template <class Number>
static void add_multiply(int64_t rows, int64_t columns, int64_t depth, Left<typename Number::Word> a,
                         Right<typename Number::Word> b, float *out, int64_t row_step) {
  int64_t n = 0;
  for (; n + kPanel <= columns; n += kPanel)
    multiply_columns<Number, 2, true>(rows, depth, a, {b.data + n, b.depth_step}, out + n, row_step);
  if (n < columns) multiply_columns<Number, 1, true>(rows, depth, a, {b.data + n, b.depth_step}, out + n, row_step);
}

}  // namespace
