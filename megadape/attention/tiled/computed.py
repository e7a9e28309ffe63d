"""Terms of a bias that is no table: made block by block, and made again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megadape.attention.tiled.blocks import Block
from megadape.attention.tiled.mixing import Terms
from megadape.attention.tiled.scratch import Scratch
from megadape.attention.tiled.sources import Inputs, TermGradients
from megadape.positions import ScoreBias


class BlockBias(Protocol):
    """A bias that can be had for a block alone."""

    @property
    def inputs(self) -> Inputs:
        """What it depends on."""

    def make(self, block: Block) -> tuple[Tensor | None, Inputs]:
        """The bias [h, rows, keys], rows reversed, and what it was made of: a leaf for each input."""

    def part(self, gradient: Tensor, block: Block) -> Tensor:
        """The part of an input's gradient that belongs to the leaf of this block, as a view."""


@dataclass(frozen=True)
class NoBias:
    """Nothing."""

    inputs: Inputs = ()

    def make(self, block: Block) -> tuple[Tensor | None, Inputs]:
        """As in ``BlockBias``."""
        return None, ()

    def part(self, gradient: Tensor, block: Block) -> Tensor:
        """As in ``BlockBias``."""
        return gradient


@dataclass(frozen=True)
class EncodingBias:
    """Any score bias."""

    encoding: ScoreBias
    query_positions: Tensor
    key_positions: Tensor
    dtype: torch.dtype

    @property
    def inputs(self) -> Inputs:
        """As in ``BlockBias``."""
        return tuple(self.encoding.parameters())

    def make(self, block: Block) -> tuple[Tensor | None, Inputs]:
        """As in ``BlockBias``."""
        queries = self.query_positions[block.first : block.end].flip(0)
        return self.encoding.bias(queries, self.key_positions[: block.keys]).to(self.dtype), self.inputs

    def part(self, gradient: Tensor, block: Block) -> Tensor:
        """As in ``BlockBias``."""
        return gradient


@dataclass(frozen=True)
class DenseBias:
    """A tensor [h, q, k]."""

    tensor: Tensor
    dtype: torch.dtype

    @property
    def inputs(self) -> Inputs:
        """As in ``BlockBias``."""
        return (self.tensor,)

    def make(self, block: Block) -> tuple[Tensor | None, Inputs]:
        """As in ``BlockBias``."""
        leaf = self.part(self.tensor, block).detach().requires_grad_(self.tensor.requires_grad)
        return leaf.flip(1).to(self.dtype), (leaf,)

    def part(self, gradient: Tensor, block: Block) -> Tensor:
        """As in ``BlockBias``."""
        return gradient[:, block.first : block.end, : block.keys]


@dataclass(frozen=True)
class Computed:
    """A source (``sources``) that makes the terms of each block from its bias."""

    bias: BlockBias
    parameters: Inputs
    """What ``make_terms`` reads beside the bias."""

    make_terms: Callable[[Tensor | None, int], Terms]

    @property
    def inputs(self) -> Inputs:
        """As in ``Source``."""
        return (*self.bias.inputs, *self.parameters)

    def terms(self, block: Block, inputs: Inputs) -> Terms:
        """As in ``Source``."""
        return self.make(block)[0]

    def gradients(self, inputs: Inputs, scratch: Scratch) -> TermGradients:
        """As in ``Source``."""
        sums = [torch.zeros_like(tensor) if tensor.requires_grad else None for tensor in self.inputs]
        return _ComputedGradients(self, sums, scratch)

    def make(self, block: Block) -> tuple[Terms, Inputs]:
        """The terms, and a leaf for each input."""
        bias, leaves = self.bias.make(block)
        terms = self.make_terms(None if bias is None else bias.flatten(1), block.pairs)
        return tuple(term.unflatten(1, (block.rows, block.keys)) for term in terms), (*leaves, *self.parameters)


@dataclass
class _ComputedGradients:
    """Sums the gradients of one block's terms, then sends them through autograd to the inputs."""

    source: Computed
    sums: list[Tensor | None]
    scratch: Scratch
    terms: Terms = ()
    leaves: Inputs = ()
    dterms: tuple[Tensor, ...] = ()

    def open(self, block: Block) -> Terms:
        with torch.enable_grad():
            self.terms, self.leaves = self.source.make(block)
        self.dterms = tuple(self.scratch.take(f"term {i}", *term.shape).zero_() for i, term in enumerate(self.terms))
        return tuple(term.detach() for term in self.terms)

    def add(self, block: Block, rows: slice, gradients: Sequence[Tensor]) -> None:
        for total, gradient in zip(self.dterms, gradients, strict=True):
            total[:, rows] += gradient[:, 0] if gradient.shape[1] == 1 else gradient.sum(1)

    def close(self, block: Block) -> None:
        outputs = [(term, dterm) for term, dterm in zip(self.terms, self.dterms, strict=True) if term.requires_grad]
        learning = [i for i, leaf in enumerate(self.leaves) if leaf.requires_grad]
        if not outputs or not learning:
            return
        terms, dterms = zip(*outputs, strict=True)
        gradients = torch.autograd.grad(terms, [self.leaves[i] for i in learning], dterms, allow_unused=True)
        of_bias = len(self.source.bias.inputs)
        for i, gradient in zip(learning, gradients, strict=True):
            total = self.sums[i]
            if gradient is not None and total is not None:
                (self.source.bias.part(total, block) if i < of_bias else total).add_(gradient)
        self.terms, self.leaves = (), ()

    def result(self) -> tuple[Tensor | None, ...]:
        return tuple(self.sums)
