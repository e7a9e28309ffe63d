"""Which sequences and query rows are computed together, so that their scores fit a workspace of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ALIGNMENT = 16
"""Keys of a chunk are filled up to a multiple of this: rows then begin where 16 bytes do."""


@dataclass(frozen=True)
class Budget:
    """How large a chunk may be.

    Args:
        numbers: scores that a chunk should hold at most.
        rows: query rows that a chunk of one sequence holds at least, whatever its length: memory stays linear in the
            length, and tables are read once for many rows.
    """

    numbers: int = 32 << 20
    rows: int = 128


@dataclass(frozen=True)
class Chunk:
    """Rows first_row .. + rows of sequences first_sequence .. + sequences, against their first ``keys`` keys."""

    first_sequence: int
    sequences: int
    first_row: int
    rows: int
    keys: int

    @property
    def width(self) -> int:
        """Keys, filled up."""
        return _fill_up(self.keys)

    @property
    def pairs(self) -> int:
        """Scores of a head, with those filled up."""
        return self.sequences * self.rows * self.width


def cut(batch: int, heads: int, queries: int, keys: int, *, causal: bool, budget: Budget) -> Iterator[Chunk]:
    """Every row that may see a key; queries are the last of the keys.

    Whole sequences share a chunk as far as they fit. Longer ones are cut by their rows, where causal into chunks of
    more rows at the front, which see fewer keys.
    """
    lead, most = keys - queries, budget.numbers // heads
    begin = max(0, -lead) if causal else 0
    if keys == 0 or begin >= queries:
        return
    whole = (queries - begin) * _fill_up(keys)
    if whole <= most:
        together = most // whole
        for first in range(0, batch, together):
            yield Chunk(first, min(together, batch - first), begin, queries - begin, keys)
        return
    for sequence in range(batch):
        first = begin
        while first < queries:
            rows = min(queries - first, _rows_that_fit(lead + first if causal else keys, most, budget.rows, causal))
            yield Chunk(sequence, 1, first, rows, min(keys, lead + first + rows) if causal else keys)
            first += rows


def _rows_that_fit(seen: int, most: int, rows: int, causal: bool) -> int:
    """The largest multiple of ``rows`` whose scores fit; one multiple at least. ``seen``: keys before the first row."""
    count = rows
    while (count + rows) * _fill_up(seen + (count + rows if causal else 0)) <= most:
        count += rows
    return count


def _fill_up(keys: int) -> int:
    return (keys + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
