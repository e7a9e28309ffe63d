"""Which query rows are computed together, and which keys they see.

Rows are taken in reversed order within a block. A row further down in the block then sees one key less, and the offset
i - j falls by one with every step right and with every step down: a table over offsets, stored from the largest offset
to the smallest, is read at every pair by a view with strides (1, 1) (``sources``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Query rows first .. end - 1, last one first, against the first ``keys`` keys."""

    first: int
    end: int
    keys: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.end - self.first

    @property
    def pairs(self) -> int:
        """Rows times keys."""
        return self.rows * self.keys


class Visibility(Protocol):
    """Which keys each query may see."""

    @property
    def first_row(self) -> int:
        """Rows before this one see nothing, for certain."""

    def keys(self, first: int, end: int) -> int:
        """No row of first .. end - 1 sees this key or a later one."""

    def masked(self, block: Block) -> Tensor | None:
        """[rows, m] booleans, rows reversed: which of the block's last m keys are not seen; None where all are."""


@dataclass(frozen=True)
class Everything:
    """Each query sees all keys."""

    all_keys: int
    first_row: int = 0

    def keys(self, first: int, end: int) -> int:
        """As in ``Visibility``."""
        return self.all_keys

    def masked(self, block: Block) -> Tensor | None:
        """As in ``Visibility``."""
        return None


@dataclass(frozen=True)
class Triangle:
    """Query r sees keys 0 .. lead + r."""

    all_keys: int
    lead: int
    device: torch.device

    @property
    def first_row(self) -> int:
        """As in ``Visibility``."""
        return max(0, -self.lead)

    def keys(self, first: int, end: int) -> int:
        """As in ``Visibility``."""
        return min(self.all_keys, self.lead + end)

    def masked(self, block: Block) -> Tensor | None:
        """As in ``Visibility``."""
        seen_by_all = self.lead + block.first + 1
        if seen_by_all >= block.keys:
            return None
        keys = torch.arange(seen_by_all, block.keys, device=self.device)
        rows = torch.arange(block.end - 1, block.first - 1, -1, device=self.device)
        return keys[None, :] > rows[:, None] + self.lead


@dataclass(frozen=True)
class ByPosition:
    """Each query sees the keys whose position is not after its own."""

    query_positions: Tensor
    key_positions: Tensor
    first_row: int = 0

    def keys(self, first: int, end: int) -> int:
        """As in ``Visibility``."""
        seen = (self.key_positions <= self.query_positions[first:end].max()).nonzero()
        return int(seen[-1]) + 1 if len(seen) else 0

    def masked(self, block: Block) -> Tensor | None:
        """As in ``Visibility``."""
        queries = self.query_positions[block.first : block.end].flip(0)
        return queries[:, None] < self.key_positions[None, : block.keys]


def split(queries: int, visibility: Visibility, rows_for: Callable[[int], int]) -> Iterator[Block]:
    """Blocks of all rows that see anything, last rows first; ``rows_for`` tells how many rows suit a number of keys."""
    end = queries
    while end > visibility.first_row:
        keys = visibility.keys(visibility.first_row, end)
        first = max(visibility.first_row, end - rows_for(keys))
        block = Block(first, end, visibility.keys(first, end))
        if block.keys:
            yield block
        end = first
