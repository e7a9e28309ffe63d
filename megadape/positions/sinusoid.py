"""Sines and cosines of positions (Vaswani et al., 2017, arXiv 1706.03762, section 3.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from megadape.errors import ConfigurationError
from megadape.positions.base import Geometry
from megadape.positions.rotation import frequencies


def sine_and_cosine(positions: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sine and cosine of ``position / 10000^(2m / size)``: [n] integers -> two of [n, size / 2]. Angles are float64."""
    angles = positions.to(torch.float64)[:, None] * frequencies(size, 10000.0, positions.device)
    return angles.sin().to(dtype), angles.cos().to(dtype)


def check_width(kind: str, geometry: Geometry) -> None:
    """Raise ``ConfigurationError`` unless the hidden size has a cosine for every sine."""
    if geometry.hidden_size % 2:
        raise ConfigurationError(
            f"{kind} pairs sines with cosines, but hidden_size is {geometry.hidden_size}: make it even"
        )
