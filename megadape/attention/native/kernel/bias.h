// What the position bias adds to a row of the mixer, and its gradient: from tables (mixer.h) or from pieces (pieces.h).
#pragma once

namespace {

struct Bias {
  BiasTable table;
  Pieces pieces;

  Bias(Arena &arena, const Plan &plan) : table(arena, plan), pieces(arena, plan) {}
  bool piecewise() const { return pieces.count > 0; }
  void read(const Plan &plan) {
    if (piecewise())
      pieces.read(plan);
    else
      table.read(plan);
  }
};

// The row in hand, and the scratch memory for it.
struct BiasReader {
  const Bias &bias;
  float *scratch;  // [rows, kPanel]
  Abscissa at = {};

  BiasReader(Arena &arena, const Bias &bias_)
      : bias(bias_), scratch(arena.take<float>(bias_.piecewise() ? bias_.pieces.rows * kPanel : 0)) {}

  // for the lanes from `query` on, of which the first is at `offset` from the key
  INLINE_MEMBER BiasRow row(int64_t offset, int64_t query) {
    if (!bias.piecewise()) return bias.table.row(offset);
    at = bias.pieces.at(offset, query);
    return bias.pieces.row(at, scratch);
  }
};

// Where the gradient of a row is added.
struct GradientRow {
  float *u, *c;
  int64_t step;  // from one hidden unit, or head, to the next
};

// The gradients that a thread collects.
struct BiasGradients {
  const Bias &bias;
  BiasTable table;
  PieceGradients pieces;
  float *scratch;  // [rows, kPanel]

  BiasGradients(Arena &arena, const Plan &plan, const Bias &bias_)
      : bias(bias_),
        table(arena, plan),
        pieces(arena, plan, bias_.pieces),
        scratch(arena.take<float>(bias_.piecewise() ? bias_.pieces.rows * kPanel : 0)) {}

  void clear(const Plan &plan) {
    if (bias.piecewise())
      pieces.clear(plan, bias.pieces);
    else
      table.clear(plan);
  }
  INLINE_MEMBER GradientRow begin_row(int64_t offset) const {
    if (!bias.piecewise()) return {table.u + table.column(offset), table.c + table.column(offset), table.step};
    fill(scratch, bias.pieces.rows * kPanel, 0.f);
    return {scratch, scratch + bias.pieces.hidden_rows * kPanel, kPanel};
  }
  INLINE_MEMBER void end_row(const Abscissa &at, int64_t offset, int64_t query) const {
    if (bias.piecewise()) pieces.add(bias.pieces, at, offset, query, scratch);
  }
  void add_to(const Plan &plan) const {
    if (bias.piecewise())
      pieces.add_to(plan, bias.pieces);
    else
      table.add_to(plan, plan.problem.du, plan.problem.dc);
  }
};

}  // namespace
