"""The forward walk over blocks and tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.tiled.blocks import Block, Visibility
from megadape.attention.tiled.mixing import Mixing, Weights
from megadape.attention.tiled.scratch import Scratch
from megadape.attention.tiled.sources import Inputs, Source


@dataclass(frozen=True)
class Plan:
    """All of a call but its tensors."""

    blocks: tuple[Block, ...]
    visibility: Visibility
    mixing: Mixing
    source: Source
    scale: float
    dtype: torch.dtype
    """Of all arithmetic."""

    tile_pairs: int
    """Pairs that are mixed at a time."""

    def batch_step(self, block: Block) -> int:
        """How many sequences of a batch share a tile."""
        return max(1, self.tile_pairs // block.pairs)

    def row_slices(self, block: Block) -> Iterator[slice]:
        """The tiles of a block, as slices of its reversed rows."""
        step = max(1, min(block.rows, self.tile_pairs // block.keys))
        return (slice(first, min(first + step, block.rows)) for first in range(0, block.rows, step))


@dataclass(frozen=True)
class Fold:
    """Some sequences of a batch, heads outermost: [b, h, s, d] -> [h b, s, d]."""

    sequences: slice
    dtype: torch.dtype

    def all(self, x: Tensor, contiguous: bool = True) -> Tensor:
        """[b, h, s, d] -> [h b, s, d]; a view where the tensor allows it and needs not be contiguous."""
        folded = x[self.sequences].transpose(0, 1).to(self.dtype).flatten(0, 1)
        return folded.contiguous() if contiguous else folded

    def rows(self, x: Tensor, block: Block) -> Tensor:
        """The block's rows, reversed: [b, h, q, d] -> [h b, rows, d]."""
        return self.all(x[:, :, block.first : block.end]).flip(1)

    def put_rows(self, x: Tensor, block: Block, out: Tensor) -> None:
        """The inverse of ``rows``, into ``out``."""
        part = out[self.sequences, :, block.first : block.end]
        part.copy_(x.flip(1).unflatten(0, (part.shape[1], -1)).transpose(0, 1))

    def put_all(self, x: Tensor, out: Tensor) -> None:
        """The inverse of ``all``, into ``out``."""
        part = out[self.sequences]
        part.copy_(x.unflatten(0, (part.shape[1], -1)).transpose(0, 1))


def run_forward(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, weights: Weights, inputs: Inputs
) -> tuple[Tensor, Tensor]:
    """Attention [b, h, q, d'] and, for the backward pass, the logarithm of each row's sum of exponentials [b, h, q, 1]."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=v.dtype, device=v.device)
    log_sums = torch.zeros(*q.shape[:3], 1, dtype=plan.dtype, device=v.device)
    scratch = Scratch(plan.dtype, q.device)
    for block in plan.blocks:
        terms = plan.source.terms(block, inputs)
        hidden = plan.visibility.hidden(block)
        step = plan.batch_step(block)
        for first in range(0, len(q), step):
            fold = Fold(slice(first, first + step), plan.dtype)
