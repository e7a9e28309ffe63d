"""Transformer-XL's relative positions (Dai et al., 2019, arXiv 1901.02860)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from megadape.parameters import fan_in_uniform, normal
from megadape.positions.base import ContextualBias, EncodingSettings, Geometry, distinct_offsets
from megadape.positions.sinusoid import check_width, sine_and_cosine


class TransformerXLSettings(EncodingSettings):
    """Queries and two learned vectors read projected sinusoids of the offset."""

    kind: Literal["transformer_xl"] = "transformer_xl"

    def build(self, geometry: Geometry) -> TransformerXL:
        """Build it; ``ConfigurationError`` for an odd hidden_size."""
        check_width(self.kind, geometry)
        return TransformerXL(geometry)


class TransformerXL(ContextualBias):
    """``scale * (u . k_j + (q_i + v) . W_r R_(i-j))`` (paper, section 3.3); R is the sinusoid, sines before cosines."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        heads, width, hidden = geometry.heads, geometry.head_dim, geometry.hidden_size
        shape = (heads.total, width)
        self.u = self.declare("u", shape, normal(0.02), shard_axis=0, own=heads.own)
        self.v = self.declare("v", shape, normal(0.02), shard_axis=0, own=heads.own)
        self.W_r = self.declare("W_r", (*shape, hidden), fan_in_uniform(hidden), shard_axis=0, own=heads.own)

    def contextual_bias(
        self, q: Tensor, k: Tensor, scores: Tensor, query_positions: Tensor, key_positions: Tensor, scale: float
    ) -> Tensor:
        """As in ``ContextualBias``."""
        u, v = (vector.to(scores.dtype)[:, None, :] for vector in (self.u, self.v))
        offsets, index = distinct_offsets(query_positions, key_positions)
        content = u @ k.to(scores.dtype).transpose(-1, -2)  # [b, h, 1, k]
        by_offset = (q.to(scores.dtype) + v) @ self.relative_keys(offsets, scores.dtype).transpose(
            -1, -2
        )  # [b, h, q, n]
        return scale * (content + by_offset.gather(-1, index.expand(scores.shape)))

    def relative_keys(self, offsets: Tensor, dtype: torch.dtype) -> Tensor:
        """``W_r R`` of the offsets: [n] integers -> [h, n, d]."""
        sinusoid = torch.cat(sine_and_cosine(offsets, self.geometry.hidden_size, dtype), dim=-1)
        return sinusoid @ self.W_r.to(dtype).transpose(-1, -2)
