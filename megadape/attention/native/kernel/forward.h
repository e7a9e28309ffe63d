// Forward pass: exact attention over blocks, softmax online, nothing of size queries x keys.
//
// For a block of queries of all heads, key blocks one after the other:
//   1. scores     S = K Q^T, per head a matrix product (queries are the lanes)
//   2. mix        logits = [S +] c + W2 LeakyReLU(W1 S + u), all heads of a key at once, in registers
//   3. softmax    P = 2^(logits log2(e) - reference), at once on those registers; sum += P
//   4. values     O += V^T P, per head a matrix product
// and out = O / sum at the end. The reference of a query and head only keeps P in range, any value near the row's
// greatest logit gives the same result. It starts as the logit of key 0. Should a logit exceed it by more than
// kHeadroom (in powers of 2), the block is done again: the greatest logit becomes the reference, O and sum are
// rescaled. That is rare, so the usual path neither looks for a maximum nor rescales.
#pragma once

namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kHeadroom = 30.f;
constexpr float kNoReference = -1e30f;  // of a query that has seen no key; finite, since inf - inf is not a number

template <class Number>
struct Forward {
  using Word = typename Number::Word;
  using Element = typename Number::Element;

  // what all threads read
  struct Shared {
    Bias bias;
    Mixer<Number> mixer;
    typename Number::PairedRows values;

    Shared(Arena &arena, const Plan &plan)
        : bias(arena, plan), mixer(arena, plan), values(arena, plan, plan.problem.keys) {}
    void read(const Plan &plan) {
      bias.read(plan);
      mixer.read(plan);
      values.read(plan, plan.problem.v);
    }
  };

  const Plan &plan;
  const Shared &shared;
  const int64_t heads, head_dim, lanes;
  Word *queries;     // [heads, panels, head_dim words, kPanel]
  float *scores;     // [heads, panels, key_block, kPanel]: S, then P
  float *values;     // [heads, panels, head_dim, kPanel]: O
  float *reference;  // [heads, lanes], in powers of 2
  float *sum;        // [heads, lanes]
  float *block_sum;  // [heads, lanes]: what this block adds
  Word *hidden;      // [padded_hidden words, kPanel]
  typename Number::Staging staging;
  BiasReader bias;

  Forward(Arena &arena, const Plan &plan_, const Shared &shared_)
      : plan(plan_),
        shared(shared_),
        heads(plan_.heads),
        head_dim(plan_.head_dim),
        lanes(plan_.query_block),
        queries(arena.take<Word>(plan_.heads * lanes * plan_.head_dim / Number::kPerWord)),
        scores(arena.take<float>(plan_.padded_heads * plan_.head_step)),
        values(arena.take<float>(plan_.heads * lanes * plan_.head_dim)),
        reference(arena.take<float>(plan_.padded_heads * lanes)),
        sum(arena.take<float>(plan_.padded_heads * lanes)),
        block_sum(arena.take<float>(plan_.padded_heads * lanes)),
        hidden(arena.take<Word>(plan_.padded_hidden / Number::kPerWord * kPanel)),
        staging(arena, plan_),
        bias(arena, shared_.bias) {}

  void run(const QueryBlock &block) {
    begin(block);
    for (int64_t key = 0; key < block.keys_end; key += plan.key_block) add_keys(block, KeyBlock(plan, block, key));
    finish(block);
  }

 private:
  float *panel_scores(int64_t head, int64_t panel) const {
    return scores + head * plan.head_step + panel * plan.panel_step;
  }
  float *panel_values(int64_t head, int64_t panel) const { return values + (head * lanes + panel * kPanel) * head_dim; }

  void begin(const QueryBlock &block) {
    const Element *q = static_cast<const Element *>(plan.problem.q);
    const int64_t words = head_dim / Number::kPerWord;
    for (int64_t h = 0; h < heads; ++h)
      read_panels(Number::words(q + block.row(plan, h) * head_dim), block.count, block.panels, words,
                  queries + h * lanes * words);
    fill(values, heads * lanes * head_dim, 0.f);
    fill(reference, plan.padded_heads * lanes, kNoReference);
    fill(sum, plan.padded_heads * lanes, 0.f);
    for (int64_t h = heads; h < plan.padded_heads; ++h) fill(scores + h * plan.head_step, plan.head_step, 0.f);
  }

  void add_keys(const QueryBlock &block, const KeyBlock &keys) {
    if (keys.first == 0) raise_reference(block, keys, 1);
    if (!weigh(block, keys)) {
      raise_reference(block, keys, keys.count);
      weigh(block, keys);
    }
    for (int64_t n = 0; n < plan.padded_heads * lanes; n += kLanes) store(sum + n, load(sum + n) + load(block_sum + n));
    for (int64_t h = 0; h < heads; ++h) {
      const Left<Word> v = shared.values.left(block.head(plan, h), keys.first);
      for (int64_t p = 0; p < block.panels; ++p) {
        const int64_t rows = keys.rows(p);
        const Right<Word> weights = staging.pair_rows(panel_scores(h, p), kPanel, rows);
        const int64_t depth = blocks_of(rows, Number::kPerWord);
        add_multiply<Number>(head_dim, kPanel, depth, v, weights, panel_values(h, p), kPanel);
      }
    }
  }

  // S of the first `rows` keys
  void multiply_scores(const QueryBlock &block, const KeyBlock &keys, int64_t rows) {
    const Element *k = static_cast<const Element *>(plan.problem.k);
    const int64_t depth = head_dim / Number::kPerWord;
    for (int64_t h = 0; h < heads; ++h) {
      const Left<Word> key_rows = {Number::words(k + keys.row(plan, block, h) * head_dim), depth, 1};
      for (int64_t p = 0; p < block.panels; ++p)
        multiply_panel<Number>(least(rows, keys.rows(p)), depth, key_rows,
                               {queries + (h * lanes + p * kPanel) * depth, kPanel}, panel_scores(h, p));
    }
  }

  // runs the mixer over the first `rows` keys; then.begin(keys, panel, key), then.template tile<R>(head, tile)
  template <class Then>
  INLINE_MEMBER void mix(const QueryBlock &block, const KeyBlock &keys, int64_t rows, Then &then) {
    for (int64_t p = 0; p < block.panels; ++p)
      for (int64_t j = 0; j < least(rows, keys.rows(p)); ++j) {
        then.begin(keys, p, j);
        prefetch(block, keys, p, j);
        mix_row(p, j, bias.row(keys.diagonal + p * kPanel - j, block.first + p * kPanel), then);
      }
  }

  // while the mixer computes, the values of this block and the keys of the next one come closer
  INLINE_MEMBER void prefetch(const QueryBlock &block, const KeyBlock &keys, int64_t panel, int64_t key) const {
    const int64_t bytes = head_dim * sizeof(Element);
    const bool next = keys.first + plan.key_block + key < block.keys_end;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t row = keys.row(plan, block, h) + key;
      if (panel == 0) prefetch_bytes(static_cast<const char *>(plan.problem.v) + row * bytes, bytes);
      if (panel == block.panels - 1 && next)
        prefetch_bytes(static_cast<const char *>(plan.problem.k) + (row + plan.key_block) * bytes, bytes);
    }
  }

  template <class Then>
  INLINE_MEMBER void mix_row(int64_t panel, int64_t key, const BiasRow &bias_row, Then &then) {
    const float *row = panel_scores(0, panel) + key * kPanel;
    if (plan.hidden > 0)
      mix_hidden<Number>(shared.mixer.w1, plan.padded_hidden, staging.pair_rows(row, plan.head_step, heads), bias_row,
                         [&](int64_t m, const Tile<kTileRows> &tile) { Number::store_hidden(hidden, m, tile); });
    for_row_tiles(plan.padded_heads, LogitTiles<Then>{*this, row, bias_row, then});
  }

  template <class Then>
  struct LogitTiles {
    const Forward &self;
    const float *row;
    const BiasRow &bias;
    Then &then;

    template <int R>
    INLINE_MEMBER void tile(int64_t head) const {
      Tile<R> logits;
      load(logits, bias.c + head * bias.c_step, bias.c_step);
      const int64_t step = self.plan.head_step;
      if (self.plan.problem.residual) add(logits, self.plan.scale, row + head * step, step);
      const Weights<Number> &w2 = self.shared.mixer.w2;
      add_product<Number>(logits, w2.depth, w2.from_row(head), {self.hidden, kPanel});
      then.template tile<R>(head, logits);
    }
  };

  // P = 2^(logits - reference) in place of S, and its sums
  struct Weigh {
    Forward &self;
    Seen seen = {};
    int64_t lane = 0;
    float *row = nullptr;
    Vec greatest = broadcast(kNoReference);

    void begin(const KeyBlock &keys, int64_t panel, int64_t key) {
      seen = Seen(keys, panel, key);
      lane = panel * kPanel;
      row = self.panel_scores(0, panel) + key * kPanel;
    }
    template <int R>
    INLINE_MEMBER void tile(int64_t head, const Tile<R> &logits) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if (head + r >= self.heads) break;
        const int64_t at = (head + r) * self.lanes + lane;
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          const Vec power = logits.at[r][n] * broadcast(kLog2E) - load(self.reference + at + n * kLanes);
          greatest = max(select(seen.lanes[n], power, broadcast(kNoReference)), greatest);
          const Vec weight = exp2(power, seen.lanes[n]);
          store(self.block_sum + at + n * kLanes, load(self.block_sum + at + n * kLanes) + weight);
          store(row + (head + r) * self.plan.head_step + n * kLanes, weight);
        }
      }
    }
  };

  // S, P and block_sum of a block; false if a logit exceeds its reference too far
  bool weigh(const QueryBlock &block, const KeyBlock &keys) {
    multiply_scores(block, keys, keys.count);
    fill(block_sum, plan.padded_heads * lanes, 0.f);
    Weigh then{*this};
    mix(block, keys, keys.count, then);
    return !any_greater(then.greatest, broadcast(kHeadroom));
  }

  struct Raise {
    Forward &self;
    Seen seen = {};
    int64_t lane = 0;

    void begin(const KeyBlock &keys, int64_t panel, int64_t key) {
      seen = Seen(keys, panel, key);
      lane = panel * kPanel;
    }
    template <int R>
    INLINE_MEMBER void tile(int64_t head, const Tile<R> &logits) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float *at = self.reference + (head + r) * self.lanes + lane;
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          const Vec power = select(seen.lanes[n], logits.at[r][n] * broadcast(kLog2E), broadcast(kNoReference));
          store(at + n * kLanes, max(power, load(at + n * kLanes)));
        }
      }
    }
  };

  // reference = the greatest logit so far, the first `rows` keys of this block included; O and sum follow
  void raise_reference(const QueryBlock &block, const KeyBlock &keys, int64_t rows) {
    float *before = block_sum;
    memcpy(before, reference, plan.padded_heads * lanes * sizeof(float));
    multiply_scores(block, keys, rows);
    Raise then{*this};
    mix(block, keys, rows, then);
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t n = 0; n < block.panels * kPanel; n += kLanes) {
        const int64_t at = h * lanes + n;
        const Vec factor = exp2(load(before + at) - load(reference + at), lanes_from(0));
        store(sum + at, load(sum + at) * factor);
        float *value = panel_values(h, n / kPanel) + n % kPanel;
        for (int64_t d = 0; d < head_dim; ++d) store(value + d * kPanel, load(value + d * kPanel) * factor);
      }
  }

  // out = O / sum; a query that sees no key gives 0 and lse -infinity
  void finish(const QueryBlock &block) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t first = block.row(plan, h);
      Element *out = static_cast<Element *>(plan.problem.out) + first * head_dim;
      for_panel_rows(panel_values(h, 0), block.count, head_dim, [&](int64_t query, const float *row) {
        const float total = sum[h * lanes + query];
        const Vec factor = broadcast(total == 0.f ? 0.f : 1.f / total);
        plan.problem.lse[first + query] =
            total == 0.f ? -INFINITY : (reference[h * lanes + query] + log2f(total)) / kLog2E;
        for (int64_t d = 0; d < head_dim; d += kLanes)
          Number::store_elements(out + query * head_dim + d, load(row + d) * factor);
      });
    }
  }
};

template <class Number>
static int forward(const Problem *problem) {
  const Plan plan(*problem, Number::kForwardQueries, Number::kForwardKeys);
  using Shared = typename Forward<Number>::Shared;
  const Memory common(size_of<Shared>(plan));
  if (!common.data()) return kOutOfMemory;
  Arena arena(common.data());
  Shared shared(arena, plan);
  shared.read(plan);
  const int64_t own = size_of<Forward<Number>>(plan, shared);
  const Memory scratch(own * problem->threads);
  if (!scratch.data()) return kOutOfMemory;
#pragma omp parallel num_threads(static_cast<int>(problem->threads))
  {
    Arena mine(scratch.data() + own * thread_number());
    Forward<Number> work(mine, plan, shared);
#pragma omp for schedule(dynamic, 1)
    for (int64_t n = 0; n < plan.units(); ++n)  // the longest rows first
      work.run(QueryBlock(plan, n % problem->batch, plan.query_blocks - 1 - n / problem->batch));
  }
  return kDone;
}

}  // namespace
