"""CoPE: contextual position encoding (Golovneva et al., 2024, arXiv 2405.18719)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from megadape.parameters import constant
from megadape.positions.base import ContextualBias, EncodingSettings, Geometry


class CopeSettings(EncodingSettings):
    """Positions counted by gates that the content opens."""

    kind: Literal["cope"] = "cope"

    max_positions: int = Field(default=64, ge=2)
    """Embedded positions; counts are clamped to the last."""

    def build(self, geometry: Geometry) -> Cope:
        """Build it."""
        return Cope(geometry, self.max_positions)


class Cope(ContextualBias):
    """``q_i . e[p_ij]``, where p_ij sums the gates ``sigmoid(score_im)`` from key j to the query (paper, eqs. 3-5).

    Between two integers the product is interpolated. Keys after the query count nothing in the causal form; in the
    bidirectional form p_ij sums the gates between i and j, both included.
    """

    directed = True

    def __init__(self, geometry: Geometry, max_positions: int) -> None:
        super().__init__(geometry)
        self.max_positions = max_positions
        self.embedding = self.declare("embedding", (max_positions, geometry.head_dim), constant(0.0))

    def contextual_bias(
        self, q: Tensor, k: Tensor, scores: Tensor, query_positions: Tensor, key_positions: Tensor, scale: float
    ) -> Tensor:
        """As in ``ContextualBias``; the queries are taken unscaled, as in the paper."""
        counts = self.count(scores, query_positions, key_positions).clamp(max=self.max_positions - 1)
        at_integers = q.to(scores.dtype) @ self.embedding.to(scores.dtype).T  # [b, h, q, positions]
        floor = counts.detach().nan_to_num().floor()  # a NaN must reach the result and not the index
        below = at_integers.gather(-1, floor.long())
        above = at_integers.gather(-1, counts.detach().nan_to_num().ceil().long())
        weight = counts - floor
        return below * (1 - weight) + above * weight

    def count(self, scores: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Contextual positions p_ij, not clamped: scores [b, h, q, k] -> [b, h, q, k]."""
        offsets = query_positions[:, None] - key_positions[None, :]
        gates = scores.sigmoid()
        # filled rather than multiplied: what is in the future, be it NaN, must not reach the sum
        backwards = gates.masked_fill(offsets < 0, 0).flip(-1).cumsum(-1).flip(-1)
        if self.geometry.causal:
            return backwards
        forwards = gates.masked_fill(offsets > 0, 0).cumsum(-1)
        return backwards.where(offsets >= 0, forwards)
