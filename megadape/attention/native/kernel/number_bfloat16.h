// bfloat16 operands for AVX512-BF16: a word is a pair of numbers, products and sums are float32. See number.h.
//
// Where the sum runs along memory (a row of K against a row of Q) two neighbours are a word already. Where it runs
// across rows, two rows are interleaved first: once per call for the tensors, as they come for what is computed here.
// Scores, logits and the softmax stay float32 and are rounded (to nearest even) when they become operands.
#pragma once

namespace {

struct BFloat16 {
  using Element = uint16_t;
  using Word = uint32_t;
  using Operand = __m512bh;
  static constexpr int kPerWord = 2;
  static constexpr int64_t kForwardQueries = 192, kForwardKeys = 32;
  static constexpr int64_t kBackwardQueries = 256, kBackwardKeys = 32;

  INLINE Word word(float first, float second) {
    const __m128bh pair = _mm_cvtneps_pbh(_mm_setr_ps(first, second, 0.f, 0.f));
    return static_cast<Word>(_mm_cvtsi128_si32(reinterpret_cast<__m128i>(pair)));
  }
  INLINE Operand load_words(const Word *p) { return reinterpret_cast<Operand>(_mm512_loadu_si512(p)); }
  INLINE Operand broadcast_word(const Word *p) {
    return reinterpret_cast<Operand>(_mm512_set1_epi32(static_cast<int>(*p)));
  }
  INLINE Vec multiply_add(Operand a, Operand b, Vec c) { return _mm512_dpbf16_ps(c, a, b); }

  INLINE Vec load_elements(const Element *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(widen(p), 16)); }
  INLINE void store_elements(Element *p, Vec a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
  }
  INLINE const Word *words(const Element *p) { return reinterpret_cast<const Word *>(p); }

  INLINE void store_hidden(Word *hidden, int64_t m, const Tile<kTileRows> &tile) {
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; r += 2)
#pragma GCC unroll 2
      for (int n = 0; n < 2; ++n)
        _mm512_storeu_si512(hidden + (m + r) / 2 * kPanel + n * kLanes, interleave(tile.at[r][n], tile.at[r + 1][n]));
  }

  // [batch, heads, rows, head_dim] as words of two rows: [batch * heads, (rows + 1) / 2, head_dim]
  struct PairedRows {
    Word *pairs;
    int64_t pair_count, rows, head_dim;

    PairedRows(Arena &arena, const Plan &plan, int64_t rows_)
        : pair_count(blocks_of(rows_, 2)), rows(rows_), head_dim(plan.head_dim) {
      pairs = arena.take<Word>(plan.problem.batch * plan.heads * pair_count * head_dim);
    }
    void read(const Plan &plan, const void *tensor) {
      const Element *from = static_cast<const Element *>(tensor);
#pragma omp parallel for num_threads(static_cast<int>(plan.problem.threads))
      for (int64_t head = 0; head < plan.problem.batch * plan.heads; ++head)
        for (int64_t n = 0; n < pair_count; ++n)
          for (int64_t d = 0; d < head_dim; d += kLanes) {
            const Element *first = from + (head * rows + 2 * n) * head_dim + d;
            const __m512i second = 2 * n + 1 < rows ? widen(first + head_dim) : _mm512_setzero_si512();
            _mm512_storeu_si512(pairs + (head * pair_count + n) * head_dim + d,
                                _mm512_or_si512(widen(first), _mm512_slli_epi32(second, 16)));
          }
    }
    // `row` is even
    const Word *at(int64_t head, int64_t row) const { return pairs + (head * pair_count + row / 2) * head_dim; }
    Left<Word> left(int64_t head, int64_t row) const { return {at(head, row), 1, head_dim}; }
    Right<Word> right(int64_t head, int64_t row) const { return {at(head, row), head_dim}; }
  };

  struct Staging {
    Word *pairs;

    Staging(Arena &arena, const Plan &plan)
        : pairs(arena.take<Word>(most(plan.key_block + 1, most(plan.padded_hidden, plan.padded_heads)) / 2 * kPanel)) {}
    INLINE_MEMBER Right<Word> pair_rows(const float *rows, int64_t row_step, int64_t count) const {
      int64_t r = 0;
      for (; r + 2 <= count; r += 2) store_pair(r, rows + r * row_step, row_step);
      if (r < count)
        for (int n = 0; n < 2; ++n)
          _mm512_storeu_si512(pairs + r / 2 * kPanel + n * kLanes,
                              interleave(load(rows + r * row_step + n * kLanes), broadcast(0.f)));
      return {pairs, kPanel};
    }

   private:
    INLINE_MEMBER void store_pair(int64_t r, const float *row, int64_t row_step) const {
#pragma GCC unroll 2
      for (int n = 0; n < 2; ++n)
        _mm512_storeu_si512(pairs + r / 2 * kPanel + n * kLanes,
                            interleave(load(row + n * kLanes), load(row + row_step + n * kLanes)));
    }
  };

  struct Strip {
    Word *units, *pairs;  // neighbouring units in a word; neighbouring lanes in a word

    Strip(Arena &arena, int64_t count)
        : units(arena.take<Word>(count * kStripColumns / 2)), pairs(arena.take<Word>(count * kStripColumns / 2)) {}
    INLINE_MEMBER void store_units(int64_t m, int64_t column, const Tile<kTileRows> &tile) const {
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r) {
        _mm512_storeu_si512(pairs + ((m + r) * kStripColumns + column) / 2, neighbours(tile.at[r][0], tile.at[r][1]));
        if (r % 2 == 0) continue;
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n)
          _mm512_storeu_si512(unit_pair(m + r - 1, column + n * kLanes), interleave(tile.at[r - 1][n], tile.at[r][n]));
      }
    }
    Right<Word> over_units(int64_t column) const { return {units + column, kStripColumns}; }
    Left<Word> over_pairs() const { return {pairs, kStripColumns / 2, 1}; }
    INLINE_MEMBER void differentiate(int64_t m, int64_t column, Tile<kTileRows> &tile, float slope) const {
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; r += 2)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          // a positive bfloat16 is a positive integer
          const __m512i pair = _mm512_loadu_si512(unit_pair(m + r, column + n * kLanes));
          const Mask first = _mm512_cmple_epi32_mask(_mm512_slli_epi32(pair, 16), _mm512_setzero_si512());
          const Mask second = _mm512_cmple_epi32_mask(pair, _mm512_set1_epi32(0xffff));
          tile.at[r][n] = _mm512_mask_mul_ps(tile.at[r][n], first, tile.at[r][n], broadcast(slope));
          tile.at[r + 1][n] = _mm512_mask_mul_ps(tile.at[r + 1][n], second, tile.at[r + 1][n], broadcast(slope));
        }
    }

   private:
    INLINE_MEMBER Word *unit_pair(int64_t m, int64_t column) const { return units + m / 2 * kStripColumns + column; }
  };

  struct Lanes {
    Word *pairs;

    Lanes(Arena &arena, int64_t rows, int64_t columns) : pairs(arena.take<Word>(rows * columns / 2)) {}
    INLINE_MEMBER Left<Word> pair(const float *from, int64_t row_step, int64_t rows, int64_t columns) const {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t n = 0; n < columns; n += kPanel) {
          const float *x = from + r * row_step + n;
          _mm512_storeu_si512(pairs + (r * columns + n) / 2, neighbours(load(x), load(x + kLanes)));
        }
      return {pairs, columns / 2, 1};
    }
    Left<Word> pair_panels(const float *panels, const Plan &plan, int64_t count) const {
      pair(panels, kPanel, count * plan.key_block, kPanel);
      return {pairs, kPanel / 2, 1};
    }
  };

 private:
  INLINE __m512i widen(const Element *p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  }
  // words (first[n], second[n])
  INLINE __m512i interleave(Vec first, Vec second) {
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
  }
  // words (x[2 n], x[2 n + 1]) of the 32 numbers x
  INLINE __m512i neighbours(Vec low, Vec high) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)); }
};

}  // namespace
