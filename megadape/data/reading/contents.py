"""What a block of a corpus holds: documents, records passed over, and records that are bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from megadape.data.reading.lines import HEAD, Record
from megadape.data.reading.records import Selection, Texts, UnusableError
from megadape.data.reading.streams import Digest

SHOWN = 60
"""Bytes of a bad record that a message shows."""


@dataclass(frozen=True)
class ReadOptions:
    """What every block is read with.

    Args:
        selection: which values of which records are texts.
        max_line_bytes: the longest line, or document of plain text, that is read.
    """

    selection: Selection
    max_line_bytes: int


class Bad(NamedTuple):
    """A record that gives no document."""

    line: int
    """As the lines of its block are counted."""
    reason: str
    size: int
    """Bytes of the record."""
    raw: bytes
    """Those bytes; the first of them when they are many."""
    shown: bytes
    """How the record, or the mistake in it, begins."""
    text_file: bool = False
    """Whether it is a whole file of plain text that is not UTF-8."""
    rest: bool = False
    """Whether it stands for all that follows the line in its file."""


class Tally(NamedTuple):
    """How many records of one source a block holds, and which of them are bad."""

    source: int
    """Which file of the corpus."""
    first_line: int | None
    """Line from which the block counts its lines, from 0; None when that is where the block before it ended."""
    lines: int
    """Lines that begin in the block."""
    documents: int
    passed_over: int
    bad: tuple[Bad, ...]
    digest: Digest | None
    """Of a file that was read whole."""


@dataclass
class Content:
    """What a block holds of one source."""

    source: int
    first_line: int | None = None
    documents: list[Texts] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Line on which each document begins."""
    passed_over: int = 0
    bad: list[Bad] = field(default_factory=list)
    lines: int = 0
    digest: Digest | None = None

    def take(self, record: Record, read: Callable[[bytes], Texts | None], limit: int) -> None:
        """Add a record: a document, passed over or bad.

        Args:
            record: as it stands in its file.
            read: gives its texts, None for a record that is passed over; raises ``UnusableError``.
            limit: bytes of the longest record.
        """
        line, size, content = record
        try:
            if size > limit:
                raise UnusableError(f"{size} bytes are more than max_line_bytes ({limit})")
            texts = read(content)
        except UnusableError as error:
            shown = content[error.at : error.at + SHOWN]
            self.bad.append(Bad(line + error.line, error.reason, size, content[:HEAD], shown))
            return
        if texts is None:
            self.passed_over += 1
        else:
            self.documents.append(texts)
            self.starts.append(line)

    def tally(self) -> Tally:
        """The numbers without the texts."""
        return Tally(
            self.source,
            self.first_line,
            self.lines,
            len(self.documents),
            self.passed_over,
            tuple(self.bad),
            self.digest,
        )


class Block(Protocol):
    """A part of a corpus that one worker reads; it goes to the worker through a pipe."""

    @property
    def stored(self) -> int:
        """Bytes of the input, as they are stored, that progress counts for it."""
        ...

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """What it holds, source by source."""
        ...
