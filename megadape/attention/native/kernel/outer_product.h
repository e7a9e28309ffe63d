// Gradients of the mixer's weights: sums of products over all pairs.
//
// Pairs lie along the lanes, so a sum over pairs is a sum over lanes in the end. It is taken once, when all is done:
// until then every entry of the [rows, columns] result is a vector whose lanes are separate sums.
#pragma once

namespace {

constexpr int kOuterRows = kTileRows / 2;
constexpr int kOuterColumns = 4;

// Sums over lanes, kept apart lane by lane until the end: [rows, columns] vectors.
template <class Number>
struct OuterProduct {
  float *sums;
  int64_t rows, columns;

  OuterProduct(Arena &arena, int64_t rows_, int64_t columns_)
      : sums(arena.take<float>(rows_ * columns_ * kLanes)), rows(rows_), columns(columns_) {}
  void clear() { fill(sums, rows * columns * kLanes, 0.f); }

  // += x y^T over `depth` words; x is [rows], y is [columns] rows of words
  void add(Left<typename Number::Word> x, Left<typename Number::Word> y, int64_t depth) {
    for (int64_t n = 0; n < columns; n += kOuterColumns)
      for (int64_t m = 0; m < rows; m += kOuterRows)
        add_tile(x.data + m * x.row_step, x.row_step, y.data + n * y.row_step, y.row_step, depth,
                 sums + (m * columns + n) * kLanes);
  }

  // to[row, column] += factor * the sums, for the rows and columns that are no padding
  void add_to(float *to, int64_t used_rows, int64_t used_columns, float factor) const {
    for (int64_t m = 0; m < used_rows; ++m)
      for (int64_t n = 0; n < used_columns; ++n)
        to[m * used_columns + n] += factor * sum(load(sums + (m * columns + n) * kLanes));
  }

 private:
  INLINE_MEMBER void add_tile(const typename Number::Word *x, int64_t x_step, const typename Number::Word *y,
                              int64_t y_step, int64_t depth, float *to) const {
    Tile<kOuterRows, kOuterColumns> tile;
    load(tile, to, columns * kLanes);
    for (int64_t k = 0; k < depth; k += kLanes) {
      typename Number::Operand column[kOuterColumns];
#pragma GCC unroll 4
      for (int n = 0; n < kOuterColumns; ++n) column[n] = Number::load_words(y + n * y_step + k);
#pragma GCC unroll 4
      for (int m = 0; m < kOuterRows; ++m) {
        const typename Number::Operand row = Number::load_words(x + m * x_step + k);
#pragma GCC unroll 4
        for (int n = 0; n < kOuterColumns; ++n) tile.at[m][n] = Number::multiply_add(row, column[n], tile.at[m][n]);
      }
    }
    store(tile, to, columns * kLanes);
  }
};

}  // namespace
