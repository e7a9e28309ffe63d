"""Blocks of lines and of text: what a worker gets, and how it reads it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from megadape.data.files import reporting
from megadape.data.reading.contents import SHOWN, Bad, Content, ReadOptions
from megadape.data.reading.inputs import StoredFile
from megadape.data.reading.lines import HEAD, Line, Record, lines_between, lines_from, separated
from megadape.data.reading.records import Texts, decode, parse_json
from megadape.data.reading.streams import opened, skip_bom

_CHUNK = 1 << 20
_BUFFER = 1 << 18


@dataclass(frozen=True)
class LineRange:
    """The lines of a plain file that begin in a range of it (see ``lines_between``), each a JSON object."""

    source: int
    path: Path
    start: int
    stop: int

    @property
    def stored(self) -> int:
        """Bytes of the range."""
        return self.stop - self.start

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """The documents of its lines."""
        content = Content(self.source)
        with reporting("read", self.path), _open(self.path) as file:
            lines = _lines_of_range(file, self.start, self.stop, options.max_line_bytes)
            _take_json_lines(content, lines, options, self.stop)
        yield content


@dataclass(frozen=True)
class SeparatedRange:
    """The documents of a plain text file that follow separator lines which begin in a range of it."""

    source: int
    path: Path
    start: int
    stop: int
    separator: bytes

    @property
    def stored(self) -> int:
        """Bytes of the range."""
        return self.stop - self.start

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """The documents."""
        content, limit = Content(self.source), options.max_line_bytes
        with reporting("read", self.path), _open(self.path) as file:
            lines = _counted(_lines_of_range(file, self.start, self.stop, limit), self.stop, content)
            for record in separated(lines, self.separator, limit, inside=self.start == 0, stop=self.stop):
                content.take(record, _read_text, limit)
        yield content


@dataclass
class StreamedLines:
    """Whole lines of a stream, each a JSON object."""

    source: int
    first_line: int
    content: bytes
    stored: int = 0

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """The documents of its lines."""
        content = Content(self.source, self.first_line)
        lines = lines_from(io.BytesIO(self.content), 0, options.max_line_bytes)
        _take_json_lines(content, lines, options, len(self.content))
        yield content


@dataclass
class StreamedRecords:
    """Records of a stream: JSON objects, or documents of plain text. Their lines are counted from the file's first."""

    source: int
    json: bool
    records: list[Record]
    stored: int = 0

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """The documents."""

        def read_json(content: bytes) -> Texts | None:
            return options.selection(parse_json(content))

        content = Content(self.source, first_line=0)
        for record in self.records:
            content.take(record, read_json if self.json else _read_text, options.max_line_bytes)
        yield content


@dataclass
class Rejected:
    """A record, or the rest of a file, that was found to be bad when the file was cut into blocks."""

    source: int
    bad: Bad
    stored: int = 0

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """No document."""
        yield Content(self.source, first_line=0, bad=[self.bad])


@dataclass(frozen=True)
class TextFiles:
    """Files of plain text, each one document."""

    files: tuple[tuple[int, StoredFile], ...]
    """Number of the source, and the file."""

    @property
    def stored(self) -> int:
        """Bytes of the files."""
        return sum(file.size for _, file in self.files)

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """One document a file."""
        for source, file in self.files:
            yield _read_text_file(source, file, options.max_line_bytes)


def damaged(source: int, damage: str, line: int, rest: bytes) -> Rejected:
    """What stands for the rest of a compressed file that is cut or damaged."""
    reason = f"the file is truncated or damaged ({damage})"
    return Rejected(source, Bad(line, reason, len(rest), rest[:HEAD], rest[:SHOWN], rest=True))


def _read_text(content: bytes) -> Texts:
    return (decode(content),)


def _open(path: Path) -> io.BufferedReader:
    return io.BufferedReader(io.FileIO(path), _BUFFER)


def _lines_of_range(file: io.BufferedReader, start: int, stop: int, limit: int) -> Iterator[Line]:
    """Lines that begin in a range, and more; the first of a file begins at 0, be there a byte-order mark or not."""
    if start:
        file.seek(start)
        yield from lines_between(file, start, stop, limit)
        return
    lines = lines_from(file, skip_bom(file), limit)
    yield from (line._replace(start=0) for line in islice(lines, 1))
    yield from lines


def _take_json_lines(content: Content, lines: Iterator[Line], options: ReadOptions, stop: int) -> None:
    """Add a document for every line that begins at ``stop`` or before and holds something."""

    def read(line: bytes) -> Texts | None:
        return options.selection(parse_json(line))

    limit = options.max_line_bytes
    for number, line in enumerate(lines):
        if line.start > stop:
            break
        content.lines += 1
        if line.size > limit or (line.content and not line.content.isspace()):
            content.take(Record(number, line.size, line.content), read, limit)


def _counted(lines: Iterator[Line], stop: int, content: Content) -> Iterator[Line]:
    """The lines, while those that begin at ``stop`` or before are counted."""
    for line in lines:
        content.lines += line.start <= stop
        yield line


def _read_text_file(source: int, file: StoredFile, limit: int) -> Content:
    content = Content(source, first_line=0)
    with opened(file.path) as stream:
        size, text = _read_at_most(stream.content, limit)
        if stream.damage is not None:
            content.bad.append(damaged(source, stream.damage, text.count(b"\n"), text).bad)
        else:
            content.take(Record(0, size, text), _read_text, limit)
            if content.bad and size <= limit:
                content.bad[0] = content.bad[0]._replace(text_file=True)
        content.digest = stream.raw.finish()
    file.require_unchanged()
    return content


def _read_at_most(stream: BinaryIO, limit: int) -> tuple[int, bytes]:
    """How many bytes a stream has, and those bytes; only the first when there are more than the limit."""
    held: list[bytes] = []
    size = 0
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        if size <= limit or not held:
            held.append(chunk)
        else:
            del held[1:]
    return size, b"".join(held)
