"""A stream that only one process can read, cut into blocks for many."""

from __future__ import annotations

from collections.abc import Iterator

from megadape.data.reading.blocks import Rejected, StreamedLines, StreamedRecords, damaged
from megadape.data.reading.contents import SHOWN, Bad
from megadape.data.reading.json_list import list_elements
from megadape.data.reading.lines import HEAD, Line, Record, UnreadableError, lines_from, separated
from megadape.data.reading.streams import FileStream

StreamBlock = StreamedLines | StreamedRecords | Rejected


def cut_json_lines(stream: FileStream, source: int, block_bytes: int, limit: int) -> Iterator[StreamBlock]:
    """Blocks of whole lines; a line that is too long is rejected, a line that damage cuts belongs to the damage."""
    number, rest = 0, b""
    while data := stream.content.read(block_bytes):
        last = None if data.endswith(b"\n") else next(lines_from(stream.content, 0, limit), None)
        too_long = last is not None and last.size > len(last.content)
        if last is not None and not too_long:
            data += last.content + b"\n" * last.ended
        stop = len(data)
        if too_long or (stream.damage is not None and not data.endswith(b"\n")):
            stop = data.rfind(b"\n") + 1
        yield StreamedLines(source, number, data[:stop])
        number += data.count(b"\n", 0, stop)
        rest = data[stop:]
        if last is not None and too_long:
            yield _too_long(source, number, rest, last, limit)
            number += 1
    if stream.damage is not None:
        yield damaged(source, stream.damage, number, rest)


def cut_separated(
    stream: FileStream, source: int, separator: bytes, block_bytes: int, limit: int
) -> Iterator[StreamBlock]:
    """Blocks of documents between separator lines; the document that damage cuts belongs to the damage."""
    held = _Held(source, False, block_bytes)
    line, rest = 0, b""
    for record in separated(lines_from(stream.content, 0, limit), separator, limit, inside=True, stop=None):
        line = record.line
        if stream.damage is not None:  # known when nothing is left to read: this document has no end
            rest = record.content
            break
        yield from held.add(record)
    yield from held.empty()
    if stream.damage is not None:
        yield damaged(source, stream.damage, line + rest.count(b"\n"), rest)


def cut_json_list(stream: FileStream, source: int, block_bytes: int, limit: int) -> Iterator[StreamBlock]:
    """Blocks of the elements of a JSON list; what cannot be cut into elements is one bad record."""
    held = _Held(source, True, block_bytes)
    try:
        for record in list_elements(stream.content, limit):
            yield from held.add(record)
    except UnreadableError as error:
        yield from held.empty()
        if stream.damage is not None:
            yield damaged(source, stream.damage, error.line, error.rest)
        else:
            reason = f"{error.reason}: nothing from here on is read"
            raw = error.rest
            yield Rejected(source, Bad(error.line, reason, len(raw), raw[:HEAD], raw[:SHOWN]))
    yield from held.empty()


class _Held:
    """Records until they make a block."""

    def __init__(self, source: int, json: bool, block_bytes: int) -> None:
        self._source, self._json, self._block_bytes = source, json, block_bytes
        self._records: list[Record] = []
        self._size = 0

    def add(self, record: Record) -> Iterator[StreamedRecords]:
        self._records.append(record)
        self._size += len(record.content) + 1
        if self._size >= self._block_bytes:
            yield from self.empty()

    def empty(self) -> Iterator[StreamedRecords]:
        if self._records:
            yield StreamedRecords(self._source, self._json, self._records)
            self._records, self._size = [], 0


def _too_long(source: int, number: int, begun: bytes, rest: Line, limit: int) -> Rejected:
    size = len(begun) + rest.size
    raw = (begun + rest.content)[:HEAD]
    reason = f"{size} bytes are more than max_line_bytes ({limit})"
    return Rejected(source, Bad(number, reason, size, raw, raw[:SHOWN]))
