"""ALiBi: attention with linear biases (Press et al., 2021, arXiv 2108.12409)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from megadape.positions.base import DistanceBias, EncodingSettings, Geometry

LEFT_BONUS = 0.5
"""Added to keys before the query in the bidirectional form, to tell left from right."""


class AlibiSettings(EncodingSettings):
    """A fixed slope per head."""

    kind: Literal["alibi"] = "alibi"

    def build(self, geometry: Geometry) -> Alibi:
        """Build it."""
        return Alibi(geometry)


class Alibi(DistanceBias):
    """``-slope_h * |i - j|`` (paper, section 3); the bidirectional form adds 0.5 where i > j."""

    shared = True
    directed = True

    def at(self, offsets: Tensor) -> Tensor:
        """As in ``DistanceBias``."""
        heads = self.geometry.heads
        slopes = torch.tensor(alibi_slopes(heads.total)[heads.own], dtype=self.dtype, device=offsets.device)
        bias = -slopes[:, None] * offsets.abs().to(self.dtype)
        return bias if self.geometry.causal else bias + LEFT_BONUS * (offsets > 0)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """2^(-8k/n), k = 1 .. n, for n a power of two.

    Otherwise the slopes of the next lower power, then every other one, from the first, of the doubled power (the
    paper's code).
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * k / power) for k in range(1, power + 1)]
    between = [2 ** (-4 * k / power) for k in range(1, 2 * power + 1, 2)]
    return tuple(slopes + between[: heads - power])
