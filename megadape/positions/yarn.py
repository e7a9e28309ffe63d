"""YaRN: RoPE stretched to longer texts (Peng et al., 2023, arXiv 2309.00071)."""

from __future__ import annotations

from math import log, pi
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from megadape.positions.base import EncodingSettings, Geometry, RotaryEncoding
from megadape.positions.rotation import check_pairs, frequencies, turn


class YarnSettings(EncodingSettings):
    """RoPE whose slow frequencies are slowed further by a factor, with a temperature on attention."""

    kind: Literal["yarn"] = "yarn"

    base: float = Field(default=10000.0, gt=1)
    """Base of the geometric row of frequencies."""

    factor: float | None = Field(default=None, ge=1)
    """How many times longer than in training texts may be; null: length / training length of each text, at least 1."""

    alpha: float = Field(default=1.0, ge=0)
    """Dimensions with fewer full turns within the training length than this are slowed by the whole factor."""

    beta: float = Field(default=32.0, gt=0)
    """Dimensions with more full turns than this keep their frequency."""

    @model_validator(mode="after")
    def _ramp_rises(self) -> Self:
        if self.alpha >= self.beta:
            raise ValueError(f"alpha must be below beta, but alpha = {self.alpha} and beta = {self.beta}")
        return self

    def build(self, geometry: Geometry) -> Yarn:
        """Build it; ``ConfigurationError`` for an odd head_dim."""
        check_pairs(self.kind, geometry)
        return Yarn(geometry, self)


class Yarn(RotaryEncoding):
    """NTK-by-parts with attention temperature (paper, section 3.2, eqs. 17-22)."""

    def __init__(self, geometry: Geometry, settings: YarnSettings) -> None:
        super().__init__(geometry)
        self.settings = settings

    def stretch(self, length: int) -> int:
        """As in ``PositionEncoding``: the length, past the training length, unless the factor is fixed."""
        return 0 if self.settings.factor else max(length, self.geometry.training_length)

    def rotate(self, x: Tensor, positions: Tensor, length: int) -> Tensor:
        """As in ``RotaryEncoding``; without a fixed factor, keys turned for one length do not serve another."""
        factor = self.settings.factor or max(1.0, length / self.geometry.training_length)
        plain = frequencies(x.shape[-1], self.settings.base, x.device)
        # the temperature is applied to queries and keys alike, so that scores get its square
        return turn(x, positions, self._stretched(plain, factor), magnitude=0.1 * log(factor) + 1)

    def _stretched(self, frequencies: Tensor, factor: float) -> Tensor:
        """Blend of theta / s and theta by how often a dimension turns within the training length: [d/2] -> [d/2]."""
        alpha, beta = self.settings.alpha, self.settings.beta
        turns = self.geometry.training_length * frequencies / (2 * pi)
        keep = ((turns - alpha) / (beta - alpha)).clamp(0, 1)
        return (1 - keep) * frequencies / factor + keep * frequencies
