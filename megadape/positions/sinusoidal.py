"""Sinusoidal absolute positions (Vaswani et al., 2017, arXiv 1706.03762)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from megadape.positions.base import EmbeddingEncoding, EncodingSettings, Geometry
from megadape.positions.sinusoid import check_width, sine_and_cosine


class SinusoidalSettings(EncodingSettings):
    """Fixed sines and cosines, added to the token embeddings."""

    kind: Literal["sinusoidal"] = "sinusoidal"

    def build(self, geometry: Geometry) -> Sinusoidal:
        """Build it; ``ConfigurationError`` for an odd hidden_size."""
        check_width(self.kind, geometry)
        return Sinusoidal(geometry)


class Sinusoidal(EmbeddingEncoding):
    """Sine in even dimensions 2m, cosine in 2m + 1, of ``position / 10000^(2m / hidden_size)`` (section 3.5)."""

    def embed(self, positions: Tensor) -> Tensor:
        """As in ``EmbeddingEncoding``, at any position."""
        return torch.stack(sine_and_cosine(positions, self.geometry.hidden_size, self.dtype), dim=-1).flatten(-2)
