"""Kerple: kernelised relative position bias (Chi et al., 2022, arXiv 2205.09921)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from megadape.parameters import uniform
from megadape.positions.base import DistanceBias, EncodingSettings, Geometry, at_least


class KerpleLogSettings(EncodingSettings):
    """Logarithmic kernel with two learned numbers per head."""

    kind: Literal["kerple_log"] = "kerple_log"

    minimum: float = Field(default=0.01, gt=0)
    """Lower bound of r1 and r2 (the published value)."""

    def build(self, geometry: Geometry) -> KerpleLog:
        """Build it."""
        return KerpleLog(geometry, self.minimum)


class KerplePowerSettings(EncodingSettings):
    """Power kernel with two learned numbers per head."""

    kind: Literal["kerple_power"] = "kerple_power"

    minimum: float = Field(default=0.01, gt=0, lt=2)
    """Lower bound of a and p (the published value); p stays below 2."""

    def build(self, geometry: Geometry) -> KerplePower:
        """Build it."""
        return KerplePower(geometry, self.minimum)


class KerpleLog(DistanceBias):
    """``-r1 * log(1 + r2 * |i - j|)`` with learned r1, r2 > 0 per head (paper, eq. 5)."""

    def __init__(self, geometry: Geometry, minimum: float) -> None:
        super().__init__(geometry)
        heads = geometry.heads
        self.minimum = minimum
        self.r1 = self.declare("r1", (heads.total,), uniform(0, 2), shard_axis=0, own=heads.own)
        self.r2 = self.declare("r2", (heads.total,), uniform(0, 1), shard_axis=0, own=heads.own)

    def at(self, offsets: Tensor) -> Tensor:
        """As in ``DistanceBias``."""
        r1 = at_least(self.r1.to(self.dtype), self.minimum)[:, None]
        r2 = at_least(self.r2.to(self.dtype), self.minimum)[:, None]
        return -r1 * torch.log1p(r2 * offsets.abs().to(self.dtype))


class KerplePower(DistanceBias):
    """``-a * |i - j|^p`` with learned a > 0 and 0 < p <= 2 per head (paper, eq. 4)."""

    def __init__(self, geometry: Geometry, minimum: float) -> None:
        super().__init__(geometry)
        heads = geometry.heads
        self.minimum = minimum
        self.a = self.declare("a", (heads.total,), uniform(0, 1), shard_axis=0, own=heads.own)
        self.p = self.declare("p", (heads.total,), uniform(0, 2), shard_axis=0, own=heads.own)

    def at(self, offsets: Tensor) -> Tensor:
        """As in ``DistanceBias``."""
        a = at_least(self.a.to(self.dtype), self.minimum)[:, None]
        p = at_least(self.p.to(self.dtype), self.minimum, 2.0)[:, None]
        return -a * offsets.abs().to(self.dtype) ** p
