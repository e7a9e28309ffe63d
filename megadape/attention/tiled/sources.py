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
        """The terms of a block: [front, rows, keys, back] each."""

    def add(self, block: Block, rows: slice, gradients: Sequence[Tensor]) -> None:
        """Gradients [front, b, r, keys, back] of the terms at some (reversed) rows of the open block."""

    def close(self, block: Block) -> None:
        """All of the block has been added."""

    def result(self) -> tuple[Tensor | None, ...]:
        """One for each input of the source."""


class Source(Protocol):
    """Brings the terms of the bias (``mixing``) to a block."""

    @property
    def inputs(self) -> Inputs:
        """What learns: autograd hands it in and gets its gradients."""

    def terms(self, block: Block, inputs: Inputs) -> Terms:
        """[front, rows, keys, back] each."""

    def gradients(self, inputs: Inputs, scratch: Scratch) -> TermGradients:
        """For one backward pass."""


@dataclass(frozen=True)
class Tables:
    """Terms that depend on the offset i - j alone, for consecutive positions.

    A table holds [front, offsets, back], from the largest offset (last query, first key) down. In a block the offset
    falls by one with every key and with every (reversed) row, so the terms are a view and their gradients are diagonal
    sums.
    """

    inputs: Inputs
    queries: int

    def terms(self, block: Block, inputs: Inputs) -> Terms:
        """As in ``Source``."""
        return tuple(self._read(table, block) for table in inputs)

    def gradients(self, inputs: Inputs, scratch: Scratch) -> TermGradients:
        """As in ``Source``."""
        return _TableGradients(self, inputs, tuple(torch.zeros_like(table) for table in inputs), scratch)

    def start(self, block: Block) -> int:
        """Where in a table the block's first row (its last query) and first key are."""
        return self.queries - block.end

    def _read(self, table: Tensor, block: Block) -> Tensor:
        front, along, back = table.stride()
        shape = len(table), block.rows, block.keys, table.shape[2]
        offset = table.storage_offset() + self.start(block) * along
        return table.as_strided(shape, (front, along, along, back), offset)


@dataclass(frozen=True)
class _TableGradients:
    tables: Tables
    inputs: Inputs
    sums: Inputs
    scratch: Scratch

    def open(self, block: Block) -> Terms:
        return self.tables.terms(block, self.inputs)

    def add(self, block: Block, rows: slice, gradients: Sequence[Tensor]) -> None:
        start = self.tables.start(block) + rows.start
        for total, gradient in zip(self.sums, gradients, strict=True):
            diagonals = sum_diagonals(gradient, self.scratch)
            total[:, start : start + diagonals.shape[1]] += diagonals

    def close(self, block: Block) -> None:
        """Nothing is left to do."""

    def result(self) -> tuple[Tensor | None, ...]:
        return self.sums


def sum_diagonals(x: Tensor, scratch: Scratch) -> Tensor:
    """[front, b, r, n, back] -> [front, r + n - 1, back]: entry t sums x[:, :, i, j] over i + j = t and the batch.

    Rows padded with r zeros lie skewed when they are read one entry shorter than they are: i + j becomes a column.
    """
    front, _, r, n, back = x.shape
    padded = scratch.take("diagonals", front, r, n + r, back)
    padded[:, :, n:].zero_()
    sum_batch(x, padded[:, :, :n])
    skewed = padded.view(front, -1)[:, : r * (n + r - 1) * back]
    return skewed.view(front, r, n + r - 1, back).sum(1)


def sum_batch(x: Tensor, out: Tensor) -> None:
    """[front, b, ...] -> [front, ...]."""
    if x.shape[1] == 1:
        out.copy_(x[:, 0])  # five times as fast as a sum over one
    else:
        torch.sum(x, 1, out=out)
