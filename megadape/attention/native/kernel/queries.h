// Copies between the rows of [.., queries, head_dim] and panels, in which queries are lanes.
#pragma once

namespace {

// rows of words -> panel after panel, each [words of a row, kPanel]; absent queries are 0
template <class Word>
static void read_panels(const Word *rows, int64_t count, int64_t panels, int64_t words, Word *to) {
  for (int64_t lane = 0; lane < panels * kPanel; ++lane) {
    Word *out = to + lane / kPanel * words * kPanel + lane % kPanel;
    if (lane < count)
      for (int64_t w = 0; w < words; ++w) out[w * kPanel] = rows[lane * words + w];
    else
      for (int64_t w = 0; w < words; ++w) out[w * kPanel] = 0;
  }
}

// panels [head_dim, kPanel] -> rows; then(query, row) gets each
template <class Then>
static void for_panel_rows(const float *panels, int64_t count, int64_t head_dim, Then then) {
  float row[kMaxHeadDim];
  for (int64_t query = 0; query < count; ++query) {
    const float *from = panels + query / kPanel * head_dim * kPanel + query % kPanel;
    for (int64_t d = 0; d < head_dim; ++d) row[d] = from[d * kPanel];
    then(query, row);
  }
}

// the sum of a_d b_d
template <class Number>
static float dot(const typename Number::Element *a, const typename Number::Element *b, int64_t head_dim) {
  Vec total = broadcast(0.f);
  for (int64_t d = 0; d < head_dim; d += kLanes)
    total = fma(Number::load_elements(a + d), Number::load_elements(b + d), total);
  return sum(total);
}

}  // namespace
