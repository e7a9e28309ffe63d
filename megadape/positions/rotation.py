"""Turning queries and keys: what the encodings of the RoPE family share."""

from __future__ import annotations

import torch
from torch import Tensor

from megadape.errors import ConfigurationError
from megadape.positions.base import Geometry


def frequencies(head_dim: int, base: float, device: torch.device | None = None) -> Tensor:
    """Angle per position of each pair of dimensions: ``base^(-2m / head_dim)``, m = 0 .. head_dim/2 - 1, in float64."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    return base**-exponents


def turn(x: Tensor, positions: Tensor, frequencies: Tensor, magnitude: float = 1.0) -> Tensor:
    """Turn every pair of dimensions (m, m + d/2) of x by ``position * frequency_m``: the half-split form of GPT-NeoX.

    Angles are float64, since a float32 angle at position 10^4 is wrong in the fourth digit after the point; the
    products are float32 at least.

    Args:
        x: [b, h, s, d].
        positions: [s] integers.
        frequencies: [d/2], float64.
        magnitude: factor on the result.

    Returns:
        [b, h, s, d], of the dtype of x.
    """
    angles = positions.to(torch.float64)[:, None] * frequencies
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (angles.cos() * magnitude).to(dtype), (angles.sin() * magnitude).to(dtype)
    first, second = x.to(dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def check_pairs(kind: str, geometry: Geometry) -> None:
    """Raise ``ConfigurationError`` unless a head's dimensions come in pairs."""
    if geometry.head_dim % 2:
        raise ConfigurationError(
            f"{kind} turns pairs of dimensions, but a head has {geometry.head_dim}: choose hidden_size and "
            "num_heads so that hidden_size / num_heads is even"
        )
