"""FIRE: functional interpolation for relative positions (Li et al., 2023, arXiv 2310.04418)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from megadape.parameters import DeclaredModule, constant, fan_in_uniform
from megadape.positions.base import EncodingSettings, Geometry, Heads, ScoreBias

EPSILON = 1e-6
"""Keeps the normaliser's logarithm from zero (the published code)."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


class FireSettings(EncodingSettings):
    """A small network on the logarithm of the distance, normalised by the query's position."""

    kind: Literal["fire"] = "fire"

    width: int = Field(default=32, ge=1)
    """Hidden units of the network."""

    activation: Literal["relu", "leaky_relu"] = "relu"
    """ReLU in the FIRE paper; LeakyReLU in the published code of DAPE-FIRE."""

    initial_c: float = Field(default=0.1, gt=0)
    """First value of the learned c."""

    initial_L: float = Field(default=512.0, gt=0)  # noqa: N815 - the paper's name
    """The fixed L0; queries before |L_multiplier * L0| are normalised by it."""

    def build(self, geometry: Geometry) -> Fire:
        """Build it."""
        return Fire(geometry, self)


class Fire(ScoreBias):
    """``mlp(log(c |i - j| + 1) / log(c max(L, i) + 1))`` with learned c and L (paper, eq. 6 and 7)."""

    def __init__(self, geometry: Geometry, settings: FireSettings) -> None:
        super().__init__(geometry)
        self.initial_L = settings.initial_L
        # of one element each: DeepSpeed fails on parameters without axes
        self.c = self.declare("c", (1,), constant(settings.initial_c))
        self.L_multiplier = self.declare("L_multiplier", (1,), constant(1.0))
        self.mlp = nn.Sequential(
            Linear(1, settings.width), ACTIVATIONS[settings.activation](), Linear(settings.width, heads=geometry.heads)
        )

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """As in ``ScoreBias``."""
        distances = (query_positions[:, None] - key_positions[None, :]).abs().to(self.dtype)
        c = self.c.to(self.dtype).abs()
        threshold = (self.L_multiplier.to(self.dtype) * self.initial_L).abs()
        normaliser = torch.log1p(c * torch.maximum(threshold, query_positions.to(self.dtype))) + EPSILON
        ratio = torch.log1p(c * distances) / normaliser[:, None]
        return self.mlp(ratio[:, :, None]).permute(2, 0, 1)


class Linear(DeclaredModule):
    """``x W^T + bias``, [..., inputs] -> [..., outputs], in the dtype of x; outputs that are heads are sharded."""

    def __init__(self, inputs: int, outputs: int | None = None, *, heads: Heads | None = None) -> None:
        super().__init__()
        assert (outputs is None) != (heads is None), "outputs are counted or they are heads"
        rows = heads.total if heads is not None else outputs or 0
        axis, own = (0, heads.own) if heads is not None else (None, None)
        init = fan_in_uniform(inputs)
        self.weight = self.declare("weight", (rows, inputs), init, shard_axis=axis, own=own)
        self.bias = self.declare("bias", (rows,), init, shard_axis=axis, own=own, decay=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs of this rank]."""
        return functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
