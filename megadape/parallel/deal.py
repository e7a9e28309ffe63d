"""How the rows of a causal triangle are dealt to ranks: evenly in work, not only in number.

The sequence is cut into 2T chunks; rank r takes chunks r and 2T-1-r. A row attends to all rows before it, so contiguous
shares would give the last rank (2T-1)/T times the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowDeal:
    """The rows of a sequence over some ranks."""

    length: int
    ranks: int

    def chunks(self, rank: int) -> tuple[slice, slice]:
        """The two runs of rows of a rank, the earlier first; lengths differ by at most one over all runs."""
        cuts = [self.length * i // (2 * self.ranks) for i in range(2 * self.ranks + 1)]
        late = 2 * self.ranks - 1 - rank
        return slice(cuts[rank], cuts[rank + 1]), slice(cuts[late], cuts[late + 1])

    @property
    def middle(self) -> int:
        """How many rows come before the late runs of all ranks."""
        return self.chunks(self.ranks - 1)[0].stop

    def rows(self, rank: int) -> Tensor:
        """[n] integers, increasing: the rows of a rank."""
        return torch.cat([torch.arange(chunk.start, chunk.stop) for chunk in self.chunks(rank)])

    def count(self, rank: int) -> int:
        """How many rows a rank has."""
        return sum(chunk.stop - chunk.start for chunk in self.chunks(rank))

    def take(self, x: Tensor, rank: int, axis: int) -> Tensor:
        """A rank's rows of a tensor."""
        return torch.cat([x.narrow(axis, c.start, c.stop - c.start) for c in self.chunks(rank)], dim=axis)

    def restore(self, parts: list[Tensor], axis: int) -> Tensor:
        """The whole sequence from the rows of all ranks, in rank order."""
        early, late = [], []
        for rank, part in enumerate(parts):
            first, second = self.chunks(rank)
            head, tail = part.split([first.stop - first.start, second.stop - second.start], dim=axis)
            early.append(head)
            late.append(tail)
        return torch.cat([*early, *late[::-1]], dim=axis)
