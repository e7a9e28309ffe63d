// The other source of the bias: u and c piecewise linear in one number, x(i, j) = numerator(i - j) * inverse(i).
//
// FIRE is of this form: a network of one input has straight lines between the kinks of its units. A row of the mixer
// is computed from the lines into scratch memory and read from there as if it were a row of the tables. The lanes are
// consecutive queries, so x changes little along them and most rows lie on one piece; where a row crosses kinks, every
// piece that it touches is computed and the lanes choose. At a kink both lines agree, hence the gradient through its
// position is zero; a lane on it takes the line before it.
#pragma once

namespace {

// x of the lanes of a row, and the pieces that they lie on.
struct Abscissa {
  Vec x[2];
  int64_t first, last;
};

struct Pieces {
  int64_t count;               // 0 where the bias is tables
  int64_t rows;                // hidden units, then heads, both padded
  int64_t hidden_rows;         // how many of them are hidden units
  float *edges;                // [count - 1]: piece p ends, and piece p + 1 begins, at edges[p]
  float *slopes, *intercepts;  // [count, rows]
  float *numerator, *inverse;  // by offset and by query; lanes outside the sequence read the nearest value
  int64_t first_offset;

  Pieces(Arena &arena, const Plan &plan)
      : count(plan.problem.pieces),
        rows(plan.padded_hidden + plan.padded_heads),
        hidden_rows(plan.padded_hidden),
        edges(arena.take<float>(count)),
        slopes(arena.take<float>(count * rows)),
        intercepts(arena.take<float>(count * rows)),
        numerator(arena.take<float>(plan.problem.offsets + 2 * kTablePad)),
        inverse(arena.take<float>(plan.problem.queries + 2 * kTablePad)),
        first_offset(plan.problem.first_offset) {}

  void read(const Plan &plan) {
    const Problem &problem = plan.problem;
    memcpy(edges, problem.edges, (count - 1) * sizeof(float));
    fill(slopes, count * rows, 0.f);
    fill(intercepts, count * rows, 0.f);
    read_lines(problem.u, plan.hidden, 0);
    read_lines(problem.c, plan.heads, hidden_rows);
    read_padded(problem.numerator, problem.offsets, numerator);
    read_padded(problem.inverse, problem.queries, inverse);
  }

  int64_t column(int64_t offset) const { return offset - first_offset + kTablePad; }

  INLINE_MEMBER Abscissa at(int64_t offset, int64_t query) const {
    const float *a = numerator + column(offset), *b = inverse + kTablePad + query;
    Abscissa at = {{load(a) * load(b), load(a + kLanes) * load(b + kLanes)}, 0, count - 1};
    while (at.last > 0 && !any_above(at, edges[at.last - 1])) --at.last;
    at.first = at.last;
    while (at.first > 0 && !all_above(at, edges[at.first - 1])) --at.first;
    return at;
  }

  // u and c for kPanel consecutive queries; `to` has room for [rows, kPanel]
  INLINE_MEMBER BiasRow row(const Abscissa &at, float *to) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int n = 0; n < 2; ++n) store(to + r * kPanel + n * kLanes, value(at.first, r, at.x[n]));
    for (int64_t p = at.first + 1; p <= at.last; ++p) {
      const Vec edge = broadcast(edges[p - 1]);
      const Mask here[2] = {greater(at.x[0], edge), greater(at.x[1], edge)};
      for (int64_t r = 0; r < rows; ++r)
        for (int n = 0; n < 2; ++n) {
          float *lane = to + r * kPanel + n * kLanes;
          store(lane, select(here[n], value(p, r, at.x[n]), load(lane)));
        }
    }
    return {to, to + hidden_rows * kPanel, kPanel, kPanel};
  }

  // 1 in the lanes on piece p, 0 elsewhere
  INLINE_MEMBER Vec inside(const Abscissa &at, int64_t p, int n) const {
    const Vec none = broadcast(0.f);
    Vec lanes = broadcast(1.f);
    if (p > at.first) lanes = select(greater(at.x[n], broadcast(edges[p - 1])), lanes, none);
    if (p < at.last) lanes = select(greater(at.x[n], broadcast(edges[p])), none, lanes);
    return lanes;
  }

 private:
  INLINE_MEMBER Vec value(int64_t p, int64_t r, Vec x) const {
    return fma(x, broadcast(slopes[p * rows + r]), broadcast(intercepts[p * rows + r]));
  }
  static bool any_above(const Abscissa &at, float edge) {
    return any_greater(at.x[0], broadcast(edge)) || any_greater(at.x[1], broadcast(edge));
  }
  static bool all_above(const Abscissa &at, float edge) {
    return all_greater(at.x[0], broadcast(edge)) && all_greater(at.x[1], broadcast(edge));
  }
  // from [2, used, count]: slopes, then intercepts
  void read_lines(const float *from, int64_t used, int64_t first_row) {
    for (int64_t r = 0; r < used; ++r)
      for (int64_t p = 0; p < count; ++p) {
        slopes[p * rows + first_row + r] = from[r * count + p];
        intercepts[p * rows + first_row + r] = from[(used + r) * count + p];
      }
  }
  static void read_padded(const float *from, int64_t size, float *to) {
    for (int64_t n = -kTablePad; n < size + kTablePad; ++n)
      to[n + kTablePad] = size == 0 ? 0.f : from[most(0, least(n, size - 1))];
  }
};

// Sums of a thread. Those of the lines are kept apart lane by lane until the end, as in outer_product.h.
struct PieceGradients {
  float *slopes, *intercepts;  // [count, rows] vectors
  float *numerator, *inverse;  // padded as those of Pieces

  PieceGradients(Arena &arena, const Plan &plan, const Pieces &pieces)
      : slopes(arena.take<float>(pieces.count * pieces.rows * kLanes)),
        intercepts(arena.take<float>(pieces.count * pieces.rows * kLanes)),
        numerator(arena.take<float>(plan.problem.offsets + 2 * kTablePad)),
        inverse(arena.take<float>(plan.problem.queries + 2 * kTablePad)) {}

  void clear(const Plan &plan, const Pieces &pieces) {
    fill(slopes, pieces.count * pieces.rows * kLanes, 0.f);
    fill(intercepts, pieces.count * pieces.rows * kLanes, 0.f);
    fill(numerator, plan.problem.offsets + 2 * kTablePad, 0.f);
    fill(inverse, plan.problem.queries + 2 * kTablePad, 0.f);
  }

  // takes in a row's gradient of u and c, [rows, kPanel]
  INLINE_MEMBER void add(const Pieces &pieces, const Abscissa &at, int64_t offset, int64_t query,
                         const float *gradient) const {
    Vec dx[2] = {broadcast(0.f), broadcast(0.f)};
    for (int64_t p = at.first; p <= at.last; ++p) {
      const Vec inside[2] = {pieces.inside(at, p, 0), pieces.inside(at, p, 1)};
      const Vec x[2] = {inside[0] * at.x[0], inside[1] * at.x[1]};
      Vec along[2] = {broadcast(0.f), broadcast(0.f)};
      for (int64_t r = 0; r < pieces.rows; ++r) {
        const Vec g[2] = {load(gradient + r * kPanel), load(gradient + r * kPanel + kLanes)};
        const int64_t line = p * pieces.rows + r;
        float *slope = slopes + line * kLanes, *intercept = intercepts + line * kLanes;
        store(slope, fma(g[0], x[0], fma(g[1], x[1], load(slope))));
        store(intercept, fma(g[0], inside[0], fma(g[1], inside[1], load(intercept))));
        for (int n = 0; n < 2; ++n) along[n] = fma(g[n], broadcast(pieces.slopes[line]), along[n]);
      }
      for (int n = 0; n < 2; ++n) dx[n] = fma(inside[n], along[n], dx[n]);
    }
    const int64_t by_offset = pieces.column(offset), by_query = kTablePad + query;
    for (int64_t n = 0; n < 2; ++n) {
      add_to_lanes(numerator + by_offset + n * kLanes, dx[n], pieces.inverse + by_query + n * kLanes);
      add_to_lanes(inverse + by_query + n * kLanes, dx[n], pieces.numerator + by_offset + n * kLanes);
    }
  }

  // adds what has been collected here to the gradients of the problem
  void add_to(const Plan &plan, const Pieces &pieces) const {
    const Problem &problem = plan.problem;
    add_lines(pieces, problem.du, plan.hidden, 0);
    add_lines(pieces, problem.dc, plan.heads, pieces.hidden_rows);
    for (int64_t n = 0; n < problem.offsets; ++n) problem.dnumerator[n] += numerator[kTablePad + n];
    for (int64_t n = 0; n < problem.queries; ++n) problem.dinverse[n] += inverse[kTablePad + n];
  }

 private:
  // to += a b
  INLINE_MEMBER static void add_to_lanes(float *to, Vec a, const float *b) { store(to, fma(a, load(b), load(to))); }

  void add_lines(const Pieces &pieces, float *to, int64_t used, int64_t first_row) const {
    for (int64_t r = 0; r < used; ++r)
      for (int64_t p = 0; p < pieces.count; ++p) {
        const int64_t at = (p * pieces.rows + first_row + r) * kLanes;
        to[r * pieces.count + p] += sum(load(slopes + at));
        to[(used + r) * pieces.count + p] += sum(load(intercepts + at));
      }
  }
};

}  // namespace
