"""Megatron's layers (Shoeybi et al., 2019, arXiv 1909.08053) with their sequence-parallel form (Korthikanti et al.,
2022, arXiv 2205.05198). Parameters are declared in full (see ``megadape.parameters``); at tp = 1 they are the plain
layers.

Activations [b, s, hidden] between layers are replicated, or split along s ("split" below). ``split`` is given at every
call: a length that does not divide stays whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from megadape.parallel.collectives import copy_to, gather_along, reduce_from, scatter_along
from megadape.parallel.sharding import WHOLE, Sharding
from megadape.parameters import DeclaredModule, Init, constant

SEQUENCE = 1
"""Axis of activations along which they are split."""


def enter(x: Tensor, sharding: Sharding, split: bool) -> Tensor:
    """Activations as a column-parallel layer takes them: whole, their gradient summed over the ranks.

    Under autocast they travel in the dtype of the product that they enter.
    """
    kind = x.device.type
    if sharding.tp.size > 1 and torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return gather_along(sharding.tp, x, SEQUENCE) if split else copy_to(sharding.tp, x)[0]


def leave(x: Tensor, sharding: Sharding, split: bool) -> Tensor:
    """Partial results as activations: summed over the ranks, replicated or split."""
    return scatter_along(sharding.tp, x, SEQUENCE) if split else reduce_from(sharding.tp, x)


def own_rows(x: Tensor, sharding: Sharding, split: bool) -> Tensor:
    """This rank's part of something replicated, [.., s, hidden], that is added to activations."""
    return copy_to(sharding.tp, x)[0].chunk(sharding.tp.size, dim=-2)[sharding.tp.rank] if split else x


def replicated(sharding: Sharding, split: bool, *parameters: Tensor) -> tuple[Tensor, ...]:
    """Replicated parameters as a split region uses them: each rank sees some rows, so gradients are summed."""
    return copy_to(sharding.tp, *parameters) if split else parameters


class ColumnParallelLinear(DeclaredModule):
    """``x @ weight.T + bias``; weight [out, in], of which each rank has some outputs."""

    def __init__(self, inputs: int, outputs: int, init: Init, sharding: Sharding = WHOLE, *, bias: bool = True) -> None:
        super().__init__()
        self.sharding = sharding
        own = sharding.own_part(outputs, "outputs of a column-parallel layer")
        self.weight = self.declare("weight", (outputs, inputs), init, shard_axis=0, own=own)
        self.bias = (
            self.declare("bias", (outputs,), constant(0.0), shard_axis=0, own=own, decay=False) if bias else None
        )

    def forward(self, x: Tensor, split: bool = False) -> Tensor:
        """Activations [b, s, in] -> [b, whole s, own out]."""
        return functional.linear(enter(x, self.sharding, split), self.weight, self.bias)


class RowParallelLinear(DeclaredModule):
    """``x @ weight.T + bias``; weight [out, in], of which each rank has some inputs; bias replicated."""

    def __init__(self, inputs: int, outputs: int, init: Init, sharding: Sharding = WHOLE) -> None:
        super().__init__()
        self.sharding = sharding
        own = sharding.own_part(inputs, "inputs of a row-parallel layer")
        self.weight = self.declare("weight", (outputs, inputs), init, shard_axis=1, own=own)
        self.bias = self.declare("bias", (outputs,), constant(0.0), decay=False)

    def forward(self, x: Tensor, split: bool = False) -> Tensor:
        """[b, whole s, own in] -> activations [b, s, out]."""
        if self.sharding.tp.size == 1:
            return functional.linear(x, self.weight, self.bias)
        (bias,) = replicated(self.sharding, split, self.bias)
        return leave(functional.linear(x, self.weight), self.sharding, split) + bias


class LayerNorm(DeclaredModule):
    """Layer normalisation over the last axis, with gain and bias, both replicated."""

    def __init__(
        self,
        size: int,
        eps: float,
        sharding: Sharding = WHOLE,
        normalise: Callable[..., Tensor] = functional.layer_norm,
    ) -> None:
        super().__init__()
        self.eps, self.sharding, self.normalise = eps, sharding, normalise
        self.weight = self.declare("weight", (size,), constant(1.0), decay=False)
        self.bias = self.declare("bias", (size,), constant(0.0), decay=False)

    def forward(self, x: Tensor, split: bool = False) -> Tensor:
        """[..., size] -> [..., size]."""
        weight, bias = replicated(self.sharding, split, self.weight, self.bias)
        return self.normalise(x, self.weight.shape, weight, bias, self.eps)


class VocabularyParallelEmbedding(DeclaredModule):
    """A table of vectors, one a token id, of which each rank has some rows."""

    def __init__(self, entries: int, size: int, init: Init, sharding: Sharding = WHOLE) -> None:
        super().__init__()
        self.sharding = sharding
        self.own = sharding.own_part(entries, "model.vocab_size")
        self.weight = self.declare("weight", (entries, size), init, shard_axis=0, own=self.own)

    def forward(self, ids: Tensor, split: bool = False) -> Tensor:
        """Integer [b, s] -> activations [b, s, size]."""
        if self.sharding.tp.size == 1:
            return functional.embedding(ids, self.weight)
        local, elsewhere = own_ids(ids, self.own)
        vectors = functional.embedding(local, self.weight).masked_fill(elsewhere[..., None], 0.0)
        return leave(vectors, self.sharding, split)


def own_ids(ids: Tensor, own: slice) -> tuple[Tensor, Tensor]:
    """Token ids counted from this rank's first (0 where they are another's), and where they are another's."""
    elsewhere = (ids < own.start) | (ids >= own.stop)
    return torch.where(elsewhere, 0, ids - own.start), elsewhere
