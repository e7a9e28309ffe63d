// What the operands of the matrix products are made of.
//
// Every product runs over 32-bit words. In float32 a word is one number. In bfloat16 (number_bfloat16.h) a word is two
// numbers that follow each other along the dimension that is summed, since the processor's instruction multiplies such
// pairs and adds both products to a float32. A kernel is written once for both: `Number::kPerWord` tells how many
// numbers a word holds, and what prepares operands does nothing in float32.
#pragma once

namespace {

struct Float32 {
  using Element = float;  // of q, k, v and the output
  using Word = float;
  using Operand = Vec;
  static constexpr int kPerWord = 1;
  // block sizes: measured, 12 heads of 64
  static constexpr int64_t kForwardQueries = 128, kForwardKeys = 32;
  static constexpr int64_t kBackwardQueries = 128, kBackwardKeys = 64;

  INLINE Word word(float first, float) { return first; }
  INLINE Operand load_words(const Word *p) { return load(p); }
  INLINE Operand broadcast_word(const Word *p) { return broadcast(*p); }
  INLINE Vec multiply_add(Operand a, Operand b, Vec c) { return fma(a, b, c); }

  INLINE Vec load_elements(const Element *p) { return load(p); }
  INLINE void store_elements(Element *p, Vec a) { store(p, a); }
  // a row of elements as words, for sums along it
  INLINE const Word *words(const Element *p) { return p; }

  // hidden units m .. as the right operand of the second layer: words [hidden, kPanel]
  INLINE void store_hidden(Word *hidden, int64_t m, const Tile<kTileRows> &tile) {
    store(tile, hidden + m * kPanel, kPanel);
  }

  // a tensor [batch, heads, rows, head_dim] as an operand of sums that run over its rows
  struct PairedRows {
    PairedRows(Arena &, const Plan &, int64_t rows) : rows_(rows) {}
    void read(const Plan &plan, const void *tensor) {
      tensor_ = static_cast<const float *>(tensor);
      head_dim_ = plan.head_dim;
    }
    Left<Word> left(int64_t head, int64_t row) const { return {at(head, row), 1, head_dim_}; }
    Right<Word> right(int64_t head, int64_t row) const { return {at(head, row), head_dim_}; }

   private:
    const float *at(int64_t head, int64_t row) const { return tensor_ + (head * rows_ + row) * head_dim_; }
    const float *tensor_ = nullptr;
    int64_t rows_, head_dim_ = 0;
  };

  // operands out of float32 results, kPanel columns wide
  struct Staging {
    Staging(Arena &, const Plan &) {}
    // the sum runs over the rows
    Right<Word> pair_rows(const float *rows, int64_t row_step, int64_t) const { return {rows, row_step}; }
  };

  // hidden units of a strip of keys, [units, kStripColumns], as operands of sums over units and of sums over pairs
  struct Strip {
    float *values;

    Strip(Arena &arena, int64_t units) : values(arena.take<float>(units * kStripColumns)) {}
    INLINE_MEMBER void store_units(int64_t m, int64_t column, const Tile<kTileRows> &tile) const {
      store(tile, values + m * kStripColumns + column, kStripColumns);
    }
    Right<Word> over_units(int64_t column) const { return {values + column, kStripColumns}; }
    Left<Word> over_pairs() const { return {values, kStripColumns, 1}; }
    // tile *= the derivative of LeakyReLU, at units m ..
    INLINE_MEMBER void differentiate(int64_t m, int64_t column, Tile<kTileRows> &tile, float slope) const {
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n)
          tile.at[r][n] = scale_unless_positive(
              tile.at[r][n], load(values + (m + r) * kStripColumns + column + n * kLanes), slope);
    }
  };

  // rows of float32 results, for sums that run along them
  struct Lanes {
    Lanes(Arena &, int64_t, int64_t) {}
    Left<Word> pair(const float *rows, int64_t row_step, int64_t, int64_t) const { return {rows, row_step, 1}; }
    Left<Word> pair_panels(const float *panels, const Plan &, int64_t) const { return {panels, kPanel, 1}; }
  };
};

}  // namespace
