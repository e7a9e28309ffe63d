"""What became of every record of a corpus, source by source.

Every record is a document, passed over, or bad; nothing else can become of it, and the numbers of each source say so.
Blocks come in the order of the corpus, so lines are counted on from block to block and every bad record is found by its
line, whoever read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from megadape.data.reading.contents import Bad, Tally
from megadape.data.reading.digests import SourceDigests
from megadape.data.reading.plan import Plan
from megadape.data.reading.shares import Share
from megadape.settings import Settings


class Source(Settings):
    """One file of a corpus, as it was read, and what became of its records."""

    path: str
    size: int
    """Bytes of the file as it is stored."""
    sha256: str
    records: int = 0
    """documents + passed_over + bad."""
    documents: int = 0
    passed_over: int = 0
    """Records that the conditions (where) leave out."""
    bad: int = 0
    """Records that give no document."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the records of one source so far."""

    source: int = 0
    lines: int = 0
    """Lines that begin in what is read."""
    documents: int = 0
    passed_over: int = 0
    bad: int = 0


class BadRecord(NamedTuple):
    """A bad record and where it stands."""

    file: str
    unit: str
    line: int
    """From 1."""
    bad: Bad

    def __str__(self) -> str:
        bad = self.bad
        if bad.rest:
            return f"{self.file}, after {self.unit} {self.line - 1}: {bad.reason}"
        return f"{self.file}, {self.unit} {self.line}: {bad.reason}; it begins {bad.shown!r}"


class Ledger:
    """Counts what blocks hold, in the order of the corpus.

    Args:
        plan: of the corpus.
        digests: of its files.
        finished: sources that are read to their end, when the reading goes on from somewhere.
        current: the source in which it goes on.
        share: of the corpus, when not all of it is read.
    """

    def __init__(
        self,
        plan: Plan,
        digests: SourceDigests,
        finished: tuple[Source, ...] = (),
        current: Account | None = None,
        share: Share | None = None,
    ) -> None:
        self._plan = plan
        self._share = Share.whole(plan) if share is None else share
        self._digests = digests
        self.finished: list[Source] = list(finished)
        self.current = current or Account()

    def add(self, tally: Tally) -> Iterator[BadRecord]:
        """Count what a block holds of one source; its bad records, where they stand."""
        self.finish_before(tally.source)
        if tally.digest is not None:
            self._digests.put(tally.source, tally.digest)
        first = self.first_line(tally)
        now = self.current
        self.current = replace(
            now,
            lines=now.lines + tally.lines,
            documents=now.documents + tally.documents,
            passed_over=now.passed_over + tally.passed_over,
            bad=now.bad + len(tally.bad),
        )
        source = self._plan.sources[tally.source]
        for bad in tally.bad:
            yield BadRecord(source.name, source.unit, first + self._lines_before(tally) + bad.line + 1, bad)

    def first_line(self, tally: Tally) -> int:
        """Line, from 0, from which a block that is to be added counts its lines."""
        if tally.first_line is not None:
            return tally.first_line
        return self.current.lines if self.current.source == tally.source else 0

    def finish_before(self, source: int) -> None:
        """Close the accounts of all sources before one."""
        while self.current.source < source:
            account = self.current
            digest = self._digests.take(account.source)
            self.finished.append(
                Source(
                    path=self._plan.sources[account.source].name,
                    size=digest.size,
                    sha256=digest.sha256,
                    records=account.documents + account.passed_over + account.bad,
                    documents=account.documents,
                    passed_over=account.passed_over,
                    bad=account.bad,
                )
            )
            self.current = Account(account.source + 1)

    def finish(self) -> tuple[Source, ...]:
        """Close the accounts of all sources that end in what is read."""
        self.finish_before(self._share.ended)
        return tuple(self.finished)

    def _lines_before(self, tally: Tally) -> int:
        """Lines of the source of a block that nobody counted, since they stand before the share."""
        begun_before = tally.first_line is None and tally.source == self._share.first_source
        return self._share.lines_before if begun_before else 0
