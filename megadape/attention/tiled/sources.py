"""How a position bias reaches a block, and how its gradient comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megadape.attention.tiled.blocks import Block
from megadape.attention.tiled.mixing import Terms
from megadape.attention.tiled.scratch import Scratch

Inputs = tuple[Tensor, ...]


class TermGradients(Protocol):
    """Gathers the gradients of terms over a backward pass."""

    def open(self, block: Block) -> Terms:
        """The terms of a block: [m, rows, keys] each."""

    def add(self, block: Block, rows: slice, gradients: Sequence[Tensor]) -> None:
        """Gradients [m, b, r, keys] of the terms at some rows of the open block (counted in reversed order)."""

    def close(self, block: Block) -> None:
        """All of the block has been added."""

    def result(self) -> tuple[Tensor | None, ...]:
        """One for each input of the source."""


class Source(Protocol):
    """Brings the terms of the bias (``mixing``) to a block."""

    inputs: Inputs
    """What learns: autograd hands it in and gets its gradients."""

    def terms(self, block: Block, inputs: Inputs) -> Terms:
        """[m, rows, keys] each."""

    def gradients(self, inputs: Inputs, scratch: Scratch) -> TermGradients:
        """For one backward pass."""


@dataclass(frozen=True)
class Tables:
    """Terms that depend on the offset i - j alone, for consecutive positions.

    A table holds [m, offsets], from the largest offset (last query, first key) down. In a block the entry falls by one
    with every key and with every (reversed) row, so the terms are a view and their gradients are diagonal sums.
    """

    inputs: Inputs
    queries: int

    def terms(self, block: Block, inputs: Inputs) -> Terms:
        """As in ``Source``."""
        start = self.queries - block.end
        return tuple(
            table.as_strided((len(table), block.rows, block.keys), (table.stride(0), 1, 1), table.storage_offset() + start)
            for table in inputs
        )

    def gradients(self, inputs: Inputs, scratch: Scratch) -> TermGradients:
        """As in ``Source``."""
        return _TableGradients(self, inputs, [torch.zeros_like(table) for table in inputs], scratch)


@dataclass(frozen=True)
class _TableGradients:
    tables: Tables
    inputs: Inputs
    sums: list[Tensor]
    scratch: Scratch

    def open(self, block: Block) -> Terms:
        return self.tables.terms(block, self.inputs)

    def add(self, block: Block, rows: slice, gradients: Sequence[Tensor]) -> None:
        start = self.tables.queries - block.end + rows.start
        for total, gradient in zip(self.sums, gradients, strict=True):
            diagonals = sum_diagonals(gradient, self.scratch)
            total[:, start : start + diagonals.shape[1]] += diagonals

    def close(self, block: Block) -> None:
        pass

    def result(self) -> tuple[Tensor | None, ...]:
        return tuple(self.sums)


def sum_diagonals(x: Tensor, scratch: Scratch) -> Tensor:
    """[m, b, r, n] -> [m, r + n - 1]: entry t sums x[:, :, i, j] over i + j = t and the batch.

    Rows padded with r zeros lie skewed when they are read one entry shorter than they are: i + j becomes a column.
    """
    m, _, r, n = x.shape
    padded = scratch.take("diagonals", m, r, n + r)
    padded[..., n:].zero_()
    torch.sum(x, 1, out=padded[..., :n])
    return padded.view(m, -1)[:, : r * (n + r - 1)].view(m, r, n + r - 1).sum(1)
