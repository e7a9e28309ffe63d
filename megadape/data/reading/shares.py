"""Shares of a plan: shards one after another that one process works off, whoever works off the others.

A share may begin or end inside of a source. Whoever has the end of a source knows its digest; the lines before a share
are counted only when a bad record's place is to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from megadape.data.reading.pieces import RangePiece
from megadape.data.reading.plan import Plan


@dataclass(frozen=True)
class Share:
    """The shards ``start`` to ``stop`` (without it) of a plan."""

    plan: Plan
    start: int
    stop: int

    @classmethod
    def whole(cls, plan: Plan) -> Self:
        """All of them."""
        return cls(plan, 0, len(plan.shards))

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def first_source(self) -> int:
        """Number of the source in which it begins."""
        return self._source_at(self.start)

    @property
    def ended(self) -> int:
        """How many sources of the corpus end in it, or before it."""
        return self._source_at(self.stop)

    @property
    def total_bytes(self) -> int:
        """Bytes of its sources, as they are stored; 0 when they are not all known."""
        if len(self) == len(self.plan.shards) or not self.plan.total_bytes:
            return self.plan.total_bytes
        return sum(shard.size for shard in self.plan.shards[self.start : self.stop])

    @cached_property
    def lines_before(self) -> int:
        """Lines of its first source that begin before it, where its blocks do not tell their own."""
        first = self.plan.shards[self.start].pieces[0]
        return first.lines_before() if isinstance(first, RangePiece) else 0

    def require_unchanged(self) -> None:
        """``DataError`` when the file that goes on behind it has changed; of the others their digests are looked to."""
        file = self.plan.file(self.ended) if self.ended < len(self.plan.sources) else None
        if file is not None:
            file.require_unchanged()

    def _source_at(self, shard: int) -> int:
        shards = self.plan.shards
        return shards[shard].first_source if shard < len(shards) else len(self.plan.sources)


def divide(plan: Plan, count: int) -> list[Share]:
    """So many shares that are the plan, one after another.

    The largest has as few bytes as can be. None is empty while there are shards enough; else the last ones are.
    """
    sizes = [max(1, shard.size) for shard in plan.shards]
    most = _least_most(sizes, count)
    shares, start = [], 0
    for left in range(count, 0, -1):
        stop, held = start, 0
        while stop < len(sizes) and (stop == start or (held + sizes[stop] <= most and len(sizes) - stop >= left)):
            held += sizes[stop]
            stop += 1
        shares.append(Share(plan, start, stop))
        start = stop
    assert start == len(sizes), "every shard is in a share"
    return shares


def _least_most(sizes: Sequence[int], count: int) -> int:
    """The least number of bytes that so many shares need not exceed."""
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if _needed(sizes, middle) <= count:
            high = middle
        else:
            low = middle + 1
    return low


def _needed(sizes: Sequence[int], most: int) -> int:
    """How many shares it takes when none may have more bytes than ``most``."""
    shares, held = 1, 0
    for size in sizes:
        if held + size > most:
            shares, held = shares + 1, 0
        held += size
    return shares
