"""Streams of bytes cut into lines, and lines into documents.

A record longer than the limit is passed over without being held: only its beginning is given. Nothing else depends on
how long the stream is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

HEAD = 1 << 20
"""Bytes that are kept of a record that is too long, or bad."""

_FRAGMENT = 1 << 20

_LINE_END = 0x0A


class Record(NamedTuple):
    """One record as it stands in its file."""

    line: int
    """Line on which it begins, from 0 at the first line that is read."""
    size: int
    """Its bytes, without the end of its last line."""
    content: bytes
    """Those bytes; only the first of them when the record is too long."""


class Line(NamedTuple):
    """One line of a stream."""

    start: int
    """Position of its first byte in the file."""
    size: int
    """Its bytes, without its end."""
    content: bytes
    """Those bytes; only the first of them when the line is too long."""
    ended: bool
    """False for a last line without an end."""


class UnreadableError(Exception):
    """A stream whose rest cannot be cut into records: why, from which line on, and how the rest begins."""

    def __init__(self, reason: str, line: int, rest: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.rest = rest


def lines_from(stream: BinaryIO, start: int, limit: int) -> Iterator[Line]:
    """The lines of a stream from where it stands to its end.

    Args:
        stream: stands at the beginning of a line.
        start: position of that line in the file.
        limit: bytes of the longest line that is given whole.
    """
    while line := stream.readline(_FRAGMENT):
        ended = line[-1] == _LINE_END
        taken = len(line)
        if not ended and taken == _FRAGMENT:
            line, taken, ended = _long_line(stream, line, limit)
        size = taken - ended
        yield Line(start, size, line[:size] if size <= limit else line[: min(limit, HEAD)], ended)
        start += taken


def _long_line(stream: BinaryIO, first: bytes, limit: int) -> tuple[bytes, int, bool]:
    """The line that begins with ``first``, or its beginning when it is too long; its bytes; whether it has an end."""
    held, taken, last = [first], len(first), first
    while last[-1] != _LINE_END and (more := stream.readline(_FRAGMENT)):
        last = more
        taken += len(last)
        if taken <= limit + 1:
            held.append(last)
        else:
            del held[1:]
    return b"".join(held), taken, last[-1] == _LINE_END


def lines_between(stream: BinaryIO, start: int, stop: int, limit: int) -> Iterator[Line]:
    """Lines that begin behind ``start`` and no later than at ``stop``, and all that follow.

    Every line of a file but its first begins in one of the ranges (0, a], (a, b], ... of positions. The iterator goes
    on behind ``stop`` when a line begins before, since what begins there may end later.

    Args:
        stream: stands at ``start``, which is inside of a line, at its end or at its beginning.
        start: position, more than 0.
        stop: position.
        limit: bytes of the longest line that is given whole.
    """
    while start < stop and (fragment := stream.readline(min(_FRAGMENT, stop - start))):
        start += len(fragment)
        if fragment[-1] == _LINE_END:
            yield from lines_from(stream, start, limit)
            return


def separated(
    lines: Iterable[Line], separator: bytes, limit: int, *, inside: bool, stop: int | None
) -> Iterator[Record]:
    """Documents between separator lines; several in a row separate once, the last line end is no part of a document.

    Args:
        lines: of a file.
        separator: a line, without white space at its end; empty for blank lines.
        limit: bytes of the longest document that is given whole.
        inside: the first line belongs to a document; otherwise the first document follows the first separator.
        stop: separators that begin behind this position end the reading; None reads to the end.
    """
    document: _Growing | None = None
    for number, line in enumerate(lines):
        late = stop is not None and line.start > stop
        if line.size == len(line.content) and line.content.rstrip() == separator:
            if document is not None:
                yield document.record()
            if late:
                return
            document, inside = None, True
        elif inside:
            document = document or _Growing(number, limit)
            document.add(line)
        elif late:
            return
    if document is not None:
        yield document.record()


class _Growing:
    """A document whose lines are being read; of one that is too long only the beginning is held."""

    def __init__(self, line: int, limit: int) -> None:
        self._line, self._limit = line, limit
        self._size = -1
        self._held: list[bytes] = []

    def add(self, line: Line) -> None:
        self._size += line.size + 1
        if self._size <= self._limit:
            self._held.append(line.content)
        elif self._size - line.size - 1 <= self._limit:
            self._held = [b"\n".join([*self._held, line.content])[: min(self._limit, HEAD)]]

    def record(self) -> Record:
        content = b"\n".join(self._held)
        if self._size == len(content) and content.endswith(b"\r"):
            return Record(self._line, self._size - 1, content[:-1])
        return Record(self._line, self._size, content)
