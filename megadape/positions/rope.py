"""RoPE: rotary position embedding (Su et al., 2021, arXiv 2104.09864)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from megadape.positions.base import EncodingSettings, Geometry, RotaryEncoding
from megadape.positions.rotation import check_pairs, frequencies, turn


class RopeSettings(EncodingSettings):
    """Rotary position embedding over all dimensions of a head."""

    kind: Literal["rope"] = "rope"

    base: float = Field(default=10000.0, gt=1)
    """Base of the geometric row of frequencies."""

    def build(self, geometry: Geometry) -> Rope:
        """Build it; ``ConfigurationError`` for an odd head_dim."""
        check_pairs(self.kind, geometry)
        return Rope(geometry, self.base)


class Rope(RotaryEncoding):
    """Turns dimensions (m, m + d/2) by ``position * base^(-2m/d)`` (paper, eq. 15), at any position."""

    def __init__(self, geometry: Geometry, base: float) -> None:
        super().__init__(geometry)
        self.base = base

    def rotate(self, x: Tensor, positions: Tensor, length: int) -> Tensor:
        """As in ``RotaryEncoding``; the length does not matter."""
        return turn(x, positions, frequencies(x.shape[-1], self.base, x.device))
