"""Several documents packed into one sequence, which attention must not take for one text.

A document sees nothing of the others, its positions count from its own start, and no mixer reaches over its ends: what
comes out is what each document alone would give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from megadape.errors import AttentionError

Lengths = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Documents:
    """The documents of each sequence of a batch."""

    lengths: Lengths
    """For every sequence, how many tokens each of its documents has, in order."""

    @classmethod
    def from_ids(cls, ids: Tensor) -> Self:
        """Documents by a number for each token: [b, s] integers that nowhere fall along a sequence.

        Raises:
            AttentionError: they are of another shape or dtype, or fall.
        """
        integers = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
        if ids.dim() != 2 or not integers:
            raise AttentionError(f"documents must be [batch, keys] integers, but are {ids.dtype} {list(ids.shape)}")
        steps = ids.diff(dim=1)
        if (steps < 0).any():
            raise AttentionError("documents must be numbered in the order of the sequence, but a number falls along it")
        return cls._from_ends(steps > 0, ids.shape[1])

    @classmethod
    def ending_with(cls, token: int, tokens: Tensor) -> Self:
        """Documents that end with a certain token, which belongs to the document that it ends: ids [b, s]."""
        return cls._from_ends(tokens[:, :-1] == token, tokens.shape[1])

    @classmethod
    def _from_ends(cls, ends: Tensor, length: int) -> Self:
        """[b, s - 1] booleans: whether a document ends with the token, and another one follows."""
        rows = (row.nonzero()[:, 0].add(1).tolist() for row in ends.cpu())
        return cls(tuple(tuple(end - first for first, end in pairwise([0, *row, length])) for row in rows))

    @property
    def single(self) -> bool:
        """Whether no sequence has more than one."""
        return all(len(row) <= 1 for row in self.lengths)

    def fits(self, batch: int, length: int) -> bool:
        """Whether they are those of so many sequences of that length."""
        return len(self.lengths) == batch and all(sum(row) == length for row in self.lengths)

    def first(self, count: int) -> Documents:
        """Of the first so many tokens of each sequence."""
        return Documents(tuple(tuple(n for n in _overlaps(row, 0, count) if n) for row in self.lengths))

    def last(self, count: int) -> Lengths:
        """How many of the last so many tokens each document has; 0 for those that end before."""
        return tuple(tuple(_overlaps(row, sum(row) - count, sum(row))) for row in self.lengths)

    def lay(self, make: Callable[[int], Tensor]) -> Tensor:
        """[b, s]: for each document what is made for its length, [n], in the order of the batch."""
        return torch.stack([torch.cat([make(n) for n in row]) for row in self.lengths])

    def ids(self, device: torch.device | None = None) -> Tensor:
        """[b, s]: which document of its sequence each token belongs to, counted from 0."""
        rows = (torch.tensor(row, device=device) for row in self.lengths)
        return torch.stack([torch.arange(len(row), device=device).repeat_interleave(row) for row in rows])


def _overlaps(lengths: tuple[int, ...], first: int, end: int) -> list[int]:
    """How many tokens of each document lie in first .. end - 1 of its sequence."""
    start, found = 0, []
    for length in lengths:
        found.append(max(0, min(end, start + length) - max(first, start)))
        start += length
    return found
