// How the [queries, keys] plane is cut, and which part of a block a causal row may see.
//
// A block is up to `query_block` queries of all heads against up to `key_block` keys. Queries lie along the lanes of
// the vectors: a block's scores are stored as [heads, panels, keys, kPanel], a panel being kPanel consecutive queries.
// So a key and a value are read in place, a mask or a running maximum is a vector, and the entries of the bias tables
// for consecutive lanes are consecutive.
//
// Causal: row i sees keys 0 .. i. Keys are handled in groups of kTileRows (the tile of the matrix product); a panel
// computes the groups that any of its lanes sees and masks the rest lane by lane.
#pragma once

namespace {

constexpr int64_t kMaxHeadDim = 128;
constexpr int64_t kStrip = 16;  // keys whose weight gradients are summed at once
constexpr int64_t kStripColumns = kStrip * kPanel;
constexpr int64_t kTablePad = 64;  // columns that lanes outside the sequence may read

// What one call computes, with the sizes that follow from it.
struct Plan {
  const Problem &problem;
  int64_t heads, padded_heads;    // heads rounded up to the smallest tile of the mixer's second layer
  int64_t hidden, padded_hidden;  // likewise, of its first layer
  int64_t head_dim;
  int64_t query_block, key_block;
  int64_t query_blocks;
  int64_t panel_step, head_step;  // of a block of scores
  float scale;

  Plan(const Problem &given, int64_t queries_at_once, int64_t keys_at_once)
      : problem(given),
        heads(given.heads),
        padded_heads(round_up(given.heads, 4)),
        hidden(given.hidden),
        padded_hidden(round_up(given.hidden, 8)),
        head_dim(given.head_dim),
        query_block(choose_query_block(given, queries_at_once)),
        key_block(least(keys_at_once, round_up(given.keys, kTileRows))),
        query_blocks(blocks_of(given.queries, query_block)),
        panel_step(key_block * kPanel),
        head_step(query_block / kPanel * panel_step + 16),
        scale(static_cast<float>(given.scale)) {}

  int64_t position(int64_t query) const { return query + problem.keys - problem.queries; }
  int64_t units() const { return problem.batch * query_blocks; }

 private:
  // smaller for wide models, whose blocks would leave the cache, and where threads would go without work
  static int64_t choose_query_block(const Problem &given, int64_t usual) {
    const int64_t fits = usual * (12 * 64) / (given.heads * given.head_dim);
    const int64_t fair = given.threads == 1 ? usual : given.batch * given.queries / (4 * given.threads);
    return most(1, least(usual, least(fits, fair)) / kPanel) * kPanel;
  }
};

// The queries of one unit of work.
struct QueryBlock {
  int64_t batch, first, count, panels;
  int64_t position;  // of the first query
  int64_t keys_end;  // keys that any of the queries sees

  QueryBlock(const Plan &plan, int64_t batch_, int64_t index)
      : batch(batch_),
        first(index * plan.query_block),
        count(least(plan.query_block, plan.problem.queries - first)),
        panels(blocks_of(count, kPanel)),
        position(plan.position(first)),
        keys_end(plan.problem.causal ? most(0, least(plan.problem.keys, position + count)) : plan.problem.keys) {}

  // the head's number in [batch, heads, ...], and the row of [batch, heads, queries, ...] at which its queries begin
  int64_t head(const Plan &plan, int64_t h) const { return batch * plan.heads + h; }
  int64_t row(const Plan &plan, int64_t h) const { return head(plan, h) * plan.problem.queries + first; }
};

// The keys against which a query block is computed.
struct KeyBlock {
  int64_t first, count;
  int64_t diagonal;  // position of the block's first query minus that of its first key
  bool causal;

  KeyBlock(const Plan &plan, const QueryBlock &queries, int64_t first_key)
      : first(first_key),
        count(least(plan.key_block, queries.keys_end - first_key)),
        diagonal(queries.position - first_key),
        causal(plan.problem.causal != 0) {}

  // the keys that a panel computes: 0 .. rows(panel)
  int64_t rows(int64_t panel) const {
    if (!causal) return count;
    const int64_t seen = diagonal + (panel + 1) * kPanel;
    return seen <= 0 ? 0 : least(count, round_up(seen, kTileRows));
  }

  // the first lane of a panel that sees a key; may be negative or beyond the panel
  int64_t first_lane(int64_t panel, int64_t key) const { return causal ? key - diagonal - panel * kPanel : 0; }

  // the row of [batch, heads, keys, ...] at which a head's keys begin
  int64_t row(const Plan &plan, const QueryBlock &queries, int64_t h) const {
    return queries.head(plan, h) * plan.problem.keys + first;
  }
};

// The lanes of a panel that see a key, as masks of its two vectors.
struct Seen {
  Mask lanes[2];

  Seen() = default;
  INLINE_MEMBER Seen(const KeyBlock &keys, int64_t panel, int64_t key) {
    const int64_t first = keys.first_lane(panel, key);
    lanes[0] = lanes_from(first);
    lanes[1] = lanes_from(first - kLanes);
  }
};

}  // namespace
