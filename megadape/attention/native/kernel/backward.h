// Backward pass: recomputes scores and weights block by block from q, k, v and lse; nothing of size queries x keys.
//
// For a block of queries of all heads, key blocks one after the other:
//   1. scores      S = K Q^T and dP = V dO^T, per head
//   2. mixer       per strip of keys: hidden = LeakyReLU(W1 S + u), P = e^(logits - lse), dS = P (dP - delta),
//                  g = LeakyReLU' W2^T dS, and the gradients dc += dS, du += g, dW2 += dS hidden^T, dW1 += g S^T,
//                  dA = [dS] + W1^T g, the gradient of the raw scores; dA takes the place of S, P that of dP
//   3. gradients   dQ += K^T dA; dK += dA Q, dV += P dO
// with delta = sum over d of dO O. A block of queries owns its dQ; dK and dV get contributions of all blocks, which are
// added in the order of the blocks (turns.h).
#pragma once

namespace {

template <class Number>
struct Backward {
  using Word = typename Number::Word;
  using Element = typename Number::Element;
  using Paired = typename Number::PairedRows;
  static constexpr int kPer = Number::kPerWord;

  // what all threads read
  struct Shared {
    Bias bias;
    Mixer<Number> mixer;
    Weights<Number> w1_back, w2_back;  // transposed
    Paired queries, keys, dout;
    Turns turns;

    Shared(Arena &arena, const Plan &plan)
        : bias(arena, plan),
          mixer(arena, plan),
          w1_back(arena, plan.padded_hidden, plan.padded_heads),
          w2_back(arena, plan.heads, plan.padded_hidden),
          queries(arena, plan, plan.problem.queries),
          keys(arena, plan, plan.problem.keys),
          dout(arena, plan, plan.problem.queries),
          turns(arena, plan) {}
    void read(const Plan &plan) {
      const Problem &problem = plan.problem;
      bias.read(plan);
      mixer.read(plan);
      w1_back.read(problem.w1, plan.heads, plan.hidden, 1, plan.heads, plan.scale);
      w2_back.read(problem.w2, plan.hidden, plan.heads, 1, plan.hidden, 1.f);
      queries.read(plan, problem.q);
      keys.read(plan, problem.k);
      dout.read(plan, problem.dout);
      turns.reset(plan);
    }
  };

  const Plan &plan;
  const Shared &shared;
  const int64_t heads, head_dim, lanes, depth;
  Word *queries, *dout;     // [heads, panels, head_dim words, kPanel]
  float *dqueries;          // [heads, panels, head_dim, kPanel]
  float *scores, *weights;  // [heads, panels, key_block, kPanel]: S, then dA; dP, then P
  float *lse, *delta;       // [heads, lanes]; lse in powers of 2
  float *dlogits;           // a strip: [padded_heads, kStripColumns]
  typename Number::Staging staging;
  typename Number::Strip hidden, dhidden;
  typename Number::Lanes dlogits_lanes, scores_lanes, panel_lanes;
  BiasReader bias;
  BiasGradients dbias;
  OuterProduct<Number> dw1, dw2;

  Backward(Arena &arena, const Plan &plan_, const Shared &shared_)
      : plan(plan_),
        shared(shared_),
        heads(plan_.heads),
        head_dim(plan_.head_dim),
        lanes(plan_.query_block),
        depth(plan_.head_dim / kPer),
        queries(arena.take<Word>(heads * lanes * depth)),
        dout(arena.take<Word>(heads * lanes * depth)),
        dqueries(arena.take<float>(heads * lanes * head_dim)),
        scores(arena.take<float>(plan_.padded_heads * plan_.head_step)),
        weights(arena.take<float>(plan_.padded_heads * plan_.head_step)),
        lse(arena.take<float>(heads * lanes)),
        delta(arena.take<float>(heads * lanes)),
        dlogits(arena.take<float>(plan_.padded_heads * kStripColumns)),
        staging(arena, plan_),
        hidden(arena, plan_.padded_hidden),
        dhidden(arena, plan_.padded_hidden),
        dlogits_lanes(arena, plan_.padded_heads, kStripColumns),
        scores_lanes(arena, plan_.padded_heads, kStripColumns),
        panel_lanes(arena, plan_.key_block, plan_.query_block),
        bias(arena, shared_.bias),
        dbias(arena, plan_, shared_.bias),
        dw1(arena, plan_.padded_hidden, plan_.padded_heads),
        dw2(arena, plan_.padded_heads, plan_.padded_hidden) {}

  void start() {
    dbias.clear(plan);
    dw1.clear();
    dw2.clear();
    fill(scores, plan.padded_heads * plan.head_step, 0.f);
    fill(dlogits, plan.padded_heads * kStripColumns, 0.f);
  }

  void run(const QueryBlock &block, int64_t order) {
    begin(block);
    for (int64_t key = 0; key < block.keys_end; key += plan.key_block) {
      const KeyBlock keys(plan, block, key);
      multiply_scores(block, keys);
      mix(block, keys);
      add_to_queries(block, keys);
      shared.turns.wait(block.batch, order, key);
      add_to_keys(block, keys);
      shared.turns.pass(block.batch, order, key);
    }
    shared.turns.finish(block.batch, order);
    finish(block);
  }

  // adds what this thread has collected
  void collect() const {
    dbias.add_to(plan);
    dw1.add_to(plan.problem.dw1, plan.hidden, heads, plan.scale);
    dw2.add_to(plan.problem.dw2, heads, plan.hidden, 1.f);
  }

 private:
  int64_t block_at(int64_t head, int64_t panel) const { return head * plan.head_step + panel * plan.panel_step; }
  template <class T>
  static const T *elements(const void *tensor, int64_t at) {
    return static_cast<const T *>(tensor) + at;
  }

  void begin(const QueryBlock &block) {
    const Problem &problem = plan.problem;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t row = block.row(plan, h), at = row * head_dim;
      const Element *dout_rows = elements<Element>(problem.dout, at), *out_rows = elements<Element>(problem.out, at);
      const Element *q_rows = elements<Element>(problem.q, at);
      read_panels(Number::words(q_rows), block.count, block.panels, depth, queries + h * lanes * depth);
      read_panels(Number::words(dout_rows), block.count, block.panels, depth, dout + h * lanes * depth);
      for (int64_t n = 0; n < lanes; ++n) {
        lse[h * lanes + n] = n < block.count ? problem.lse[row + n] * kLog2E : INFINITY;
        delta[h * lanes + n] =
            n < block.count ? dot<Number>(dout_rows + n * head_dim, out_rows + n * head_dim, head_dim) : 0.f;
      }
    }
    fill(dqueries, heads * lanes * head_dim, 0.f);
  }

  void multiply_scores(const QueryBlock &block, const KeyBlock &keys) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = keys.row(plan, block, h) * head_dim;
      const Left<Word> k = {Number::words(elements<Element>(plan.problem.k, at)), depth, 1};
      const Left<Word> v = {Number::words(elements<Element>(plan.problem.v, at)), depth, 1};
      for (int64_t p = 0; p < block.panels; ++p) {
        const int64_t panel = (h * lanes + p * kPanel) * depth;
        multiply_panel<Number>(keys.rows(p), depth, k, {queries + panel, kPanel}, scores + block_at(h, p));
        multiply_panel<Number>(keys.rows(p), depth, v, {dout + panel, kPanel}, weights + block_at(h, p));
      }
    }
  }

  void mix(const QueryBlock &block, const KeyBlock &keys) {
    for (int64_t p = 0; p < block.panels; ++p)
      for (int64_t j = 0; j < keys.rows(p); j += kStrip) {
        const int64_t rows = least(kStrip, keys.rows(p) - j);
        for (int64_t r = 0; r < rows; ++r) {
          prefetch(block, keys, p, j + r);
          mix_row(block, keys, p, j + r, r);
        }
        finish_strip(p, j, rows * kPanel);
      }
  }

  // while the mixer computes, what the next products read comes closer: dK and dV here, then K and V of the next block
  INLINE_MEMBER void prefetch(const QueryBlock &block, const KeyBlock &keys, int64_t panel, int64_t key) const {
    const int64_t bytes = head_dim * sizeof(Element), sums = head_dim * sizeof(float);
    const bool next = panel == block.panels - 1 && keys.first + plan.key_block + key < block.keys_end;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t row = keys.row(plan, block, h) + key, later = (row + plan.key_block) * bytes;
      if (panel == 0) prefetch_bytes(reinterpret_cast<const char *>(plan.problem.dk) + row * sums, sums);
      if (panel == block.panels / 2) prefetch_bytes(reinterpret_cast<const char *>(plan.problem.dv) + row * sums, sums);
      if (next) prefetch_bytes(static_cast<const char *>(plan.problem.k) + later, bytes);
      if (next) prefetch_bytes(static_cast<const char *>(plan.problem.v) + later, bytes);
    }
  }

  // one key against one panel: hidden, P, dlogits, dhidden, and the gradients of the bias
  INLINE_MEMBER void mix_row(const QueryBlock &block, const KeyBlock &keys, int64_t panel, int64_t key, int64_t row) {
    const int64_t offset = keys.diagonal + panel * kPanel - key, query = block.first + panel * kPanel;
    const BiasRow bias_row = bias.row(offset, query);
    const GradientRow dbias_row = dbias.begin_row(offset);
    const float *scores_row = scores + block_at(0, panel) + key * kPanel;
    const int64_t column = row * kPanel;
    if (plan.hidden > 0)
      mix_hidden<Number>(shared.mixer.w1, plan.padded_hidden,
                         staging.pair_rows(scores_row, plan.head_step, heads), bias_row,
                         [&](int64_t m, const Tile<kTileRows> &tile) { hidden.store_units(m, column, tile); });
    for_row_tiles(plan.padded_heads,
                  Logits{*this, bias_row, dbias_row, Seen(keys, panel, key), scores_row, panel, key, column});
    if (plan.hidden > 0) differentiate_hidden(column, dbias_row);
    dbias.end_row(bias.at, offset, query);
  }

  INLINE_MEMBER void differentiate_hidden(int64_t column, const GradientRow &dbias_row) {
    const Right<Word> dlogits_rows = staging.pair_rows(dlogits + column, kStripColumns, heads);
    for (int64_t m = 0; m < plan.padded_hidden; m += kTileRows) {
      Tile<kTileRows> tile;
      clear(tile);
      add_product<Number>(tile, shared.w2_back.depth, shared.w2_back.from_row(m), dlogits_rows);
      hidden.differentiate(m, column, tile, kSlope);
      dhidden.store_units(m, column, tile);
      float *du = dbias_row.u + m * dbias_row.step;
      add(tile, 1.f, du, dbias_row.step);
      store(tile, du, dbias_row.step);
    }
  }

  struct Logits {
    Backward &self;
    const BiasRow &bias;
    const GradientRow &dbias;
    const Seen seen;
    const float *scores_row;
    int64_t panel, key, column;

    template <int R>
    INLINE_MEMBER void tile(int64_t head) const {
      Tile<R> logits;
      load(logits, bias.c + head * bias.c_step, bias.c_step);
      const int64_t step = self.plan.head_step;
      if (self.plan.problem.residual) add(logits, self.plan.scale, scores_row + head * step, step);
      const Weights<Number> &w2 = self.shared.mixer.w2;
      add_product<Number>(logits, w2.depth, w2.from_row(head), self.hidden.over_units(column));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int64_t h = head + r, lane = h * self.lanes + panel * kPanel;
        if (h >= self.heads) break;
        float *weight = self.weights + self.block_at(h, panel) + key * kPanel;
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          const int64_t at = n * kLanes;
          const Vec p = exp2(logits.at[r][n] * broadcast(kLog2E) - load(self.lse + lane + at), seen.lanes[n]);
          const Vec ds = select(seen.lanes[n], p * (load(weight + at) - load(self.delta + lane + at)), broadcast(0.f));
          store(weight + at, p);
          store(self.dlogits + h * kStripColumns + column + at, ds);
          float *sum = dbias.c + h * dbias.step + at;
          store(sum, load(sum) + ds);
        }
      }
    }
  };

  // weight gradients of a strip, and dA in the place of S
  INLINE_MEMBER void finish_strip(int64_t panel, int64_t key, int64_t columns) {
    float *scores_strip = scores + block_at(0, panel) + key * kPanel;
    if (plan.hidden > 0) {
      const Left<Word> ds = dlogits_lanes.pair(dlogits, kStripColumns, plan.padded_heads, columns);
      const Left<Word> s = scores_lanes.pair(scores_strip, plan.head_step, plan.padded_heads, columns);
      dw2.add(ds, hidden.over_pairs(), columns / kPer);
      dw1.add(dhidden.over_pairs(), s, columns / kPer);
    }
    for (int64_t column = 0; column < columns; column += kPanel)
      for_row_tiles(plan.padded_heads, ScoreGradient{*this, column, scores_strip + column});
  }

  struct ScoreGradient {
    Backward &self;
    int64_t column;
    float *scores;

    template <int R>
    INLINE_MEMBER void tile(int64_t head) const {
      Tile<R> tile;
      clear(tile);
      const float *ds = self.dlogits + head * kStripColumns + column;
      if (self.plan.problem.residual) add(tile, self.plan.scale, ds, kStripColumns);
      const Weights<Number> &w1 = self.shared.w1_back;
      add_product<Number>(tile, w1.depth, w1.from_row(head), self.dhidden.over_units(column));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if (head + r >= self.heads) break;
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) store(scores + (head + r) * self.plan.head_step + n * kLanes, tile.at[r][n]);
      }
    }
  };

  void add_to_queries(const QueryBlock &block, const KeyBlock &keys) {
    for (int64_t h = 0; h < heads; ++h) {
      const Left<Word> k = shared.keys.left(block.head(plan, h), keys.first);
      for (int64_t p = 0; p < block.panels; ++p) {
        const int64_t rows = keys.rows(p);
        add_multiply<Number>(head_dim, kPanel, blocks_of(rows, kPer), k,
                             staging.pair_rows(scores + block_at(h, p), kPanel, rows),
                             dqueries + (h * lanes + p * kPanel) * head_dim, kPanel);
      }
    }
  }

  void add_to_keys(const QueryBlock &block, const KeyBlock &keys) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t head = block.head(plan, h), at = keys.row(plan, block, h) * head_dim;
      add_rows(block, keys, scores + block_at(h, 0), shared.queries.right(head, block.first), plan.problem.dk + at);
      add_rows(block, keys, weights + block_at(h, 0), shared.dout.right(head, block.first), plan.problem.dv + at);
    }
  }

  // to [keys, head_dim] += panels^T rows, the sum running over the block's queries
  void add_rows(const QueryBlock &block, const KeyBlock &keys, const float *panels, Right<Word> rows, float *to) {
    const int64_t step = plan.panel_step / kPer;
    const Left<Word> left = panel_lanes.pair_panels(panels, plan, block.panels);
    int64_t j = 0;
    for (; j + kTileRows <= keys.count; j += kTileRows) add_row_tile<kTileRows>(block, keys, j, left, step, rows, to);
    for (; j < keys.count; ++j) add_row_tile<1>(block, keys, j, left, step, rows, to);
  }

  template <int R>
  INLINE_MEMBER void add_row_tile(const QueryBlock &block, const KeyBlock &keys, int64_t key, Left<Word> panels,
                                  int64_t step, Right<Word> rows, float *to) const {
    int64_t n = 0;
    for (; n + kPanel <= head_dim; n += kPanel) add_row_columns<R, 2>(block, keys, key, panels, step, rows, n, to);
    if (n < head_dim) add_row_columns<R, 1>(block, keys, key, panels, step, rows, n, to);
  }

  template <int R, int C>
  INLINE_MEMBER void add_row_columns(const QueryBlock &block, const KeyBlock &keys, int64_t key, Left<Word> panels,
                                     int64_t step, Right<Word> rows, int64_t column, float *to) const {
    Tile<R, C> tile;
    load(tile, to + key * head_dim + column, head_dim);
    for (int64_t p = 0; p < block.panels; ++p) {
      if (keys.rows(p) <= key) continue;
      const int64_t words = blocks_of(least(kPanel, block.count - p * kPanel), kPer);
      add_product<Number>(tile, words, {panels.data + p * step + key * panels.row_step, panels.row_step, 1},
                          {rows.data + p * kPanel / kPer * rows.depth_step + column, rows.depth_step});
    }
    store(tile, to + key * head_dim + column, head_dim);
  }

  void finish(const QueryBlock &block) {
    for (int64_t h = 0; h < heads; ++h) {
      float *dq = plan.problem.dq + block.row(plan, h) * head_dim;
      for_panel_rows(dqueries + h * lanes * head_dim, block.count, head_dim, [&](int64_t query, const float *row) {
        memcpy(dq + query * head_dim, row, head_dim * sizeof(float));
      });
    }
  }
};

template <class Number>
static int backward(const Problem *problem) {
  const Plan plan(*problem, Number::kBackwardQueries, Number::kBackwardKeys);
  using Shared = typename Backward<Number>::Shared;
  const Memory common(size_of<Shared>(plan));
  if (!common.data()) return kOutOfMemory;
  Arena arena(common.data());
  Shared shared(arena, plan);
  shared.read(plan);
  const int64_t own = size_of<Backward<Number>>(plan, shared);
  const Memory scratch(own * problem->threads);
  if (!scratch.data()) return kOutOfMemory;
  int64_t threads = 1;
#pragma omp parallel num_threads(static_cast<int>(problem->threads))
  {
    const int64_t me = thread_number(), count = thread_count();
    if (me == 0) threads = count;
    Arena mine(scratch.data() + own * me);
    Backward<Number> work(mine, plan, shared);
    work.start();
    for (int64_t n = 0; n < plan.units(); ++n) {
      const int64_t order = n / problem->batch;
      if (owner(n, count) == me) work.run(QueryBlock(plan, n % problem->batch, plan.query_blocks - 1 - order), order);
    }
  }
  for (int64_t t = 0; t < threads; ++t) {
    Arena theirs(scratch.data() + own * t);
    Backward<Number>(theirs, plan, shared).collect();
  }
  return kDone;
}

}  // namespace
