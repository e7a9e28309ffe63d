"""No position encoding (NoPE; Kazemnejad et al., 2023, arXiv 2305.19466)."""

from __future__ import annotations

from typing import Literal

from megadape.positions.base import EncodingSettings, Geometry, NoPosition


class NoneSettings(EncodingSettings):
    """No position encoding: a causal model finds positions by itself."""

    kind: Literal["none"] = "none"

    def build(self, geometry: Geometry) -> NoPosition:
        """Build it: a module without parameters."""
        return NoPosition(geometry)
