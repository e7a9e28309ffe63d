"""Randomised positions (Ruoss et al., 2023, arXiv 2305.16843) read by RoPE."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from megadape.positions.base import EncodingSettings, Geometry
from megadape.positions.rope import Rope
from megadape.positions.rotation import check_pairs

EVALUATION_SEED = 0
"""Seeds the positions drawn outside training."""


class RandomizedRopeSettings(EncodingSettings):
    """RoPE at positions drawn from a range longer than the text, so that training sees large positions."""

    kind: Literal["randomized_rope"] = "randomized_rope"

    base: float = Field(default=10000.0, gt=1)
    """Base of the geometric row of frequencies."""

    range_factor: int = Field(default=4, ge=1)
    """Positions are drawn from a range of this many training lengths."""

    def build(self, geometry: Geometry) -> RandomizedRope:
        """Build it; ``ConfigurationError`` for an odd head_dim."""
        check_pairs(self.kind, geometry)
        return RandomizedRope(geometry, self.base, self.range_factor)


class RandomizedRope(Rope):
    """RoPE at a sorted random subset of positions (paper, section 3.1).

    In training each call of ``positions`` draws a new subset from torch's default generator; all ranks of one model
    must draw the same. In evaluation the subset is determined by the length alone, so that results repeat; subsets of
    different lengths do not contain one another, so a cache of turned keys serves one length only.
    """

    counts = False

    def __init__(self, geometry: Geometry, base: float, range_factor: int) -> None:
        super().__init__(geometry, base)
        self.range_factor = range_factor

    def positions(
        self, length: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """[length] increasing integers below ``max(length, range_factor * training_length)``."""
        span = max(length, self.range_factor * self.geometry.training_length)
        if not self.training:
            generator = torch.Generator().manual_seed(EVALUATION_SEED)
        # on the CPU, so that every device draws the same
        subset = torch.randperm(span, generator=generator, device="cpu")[:length]
        return subset.sort().values.to(device)

    def stretch(self, length: int) -> int:
        """As in ``PositionEncoding``: subsets of different lengths do not contain one another."""
        return length
