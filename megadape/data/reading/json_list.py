"""The elements of a JSON list, one after another, however long the list is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from megadape.data.reading.lines import Record, UnreadableError

_CHUNK = 1 << 20

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
"""A whole string, or a quotation mark whose string goes on behind the text, or what makes the structure of JSON."""


def list_elements(stream: BinaryIO, limit: int) -> Iterator[Record]:
    """The elements of a JSON list, as they are written.

    Strings and brackets alone are looked at: an element may be no valid JSON in itself. ``UnreadableError`` where the
    list does not end, or something follows its end.

    Args:
        stream: JSON whose first character other than white space is ``[``.
        limit: bytes of the longest element that is looked for.
    """
    text, depth = _Window(stream), 0
    while True:
        for token in _TOKEN.finditer(text.buffer, text.scanned):
            mark = token[0]
            if mark == b'"':
                break
            text.scanned = token.end()
            if mark in (b"[", b"{"):
                depth += 1
            elif mark in (b"]", b"}"):
                if not depth:
                    yield from text.last_element(token.start())
                    text.require_end(mark)
                    return
                depth -= 1
            elif mark == b"," and not depth:
                yield text.element(token.start())
        if text.pending > limit:
            raise text.unreadable(f"an element of the list is longer than max_line_bytes ({limit})")
        if not text.read_more():
            if not depth:
                yield from text.unfinished_element()
            raise text.unreadable("the list is not closed")


class _Window:
    """The part of a JSON list that is being looked at."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._elements = 0
        self._line = 0
        """Line on which the element at ``_begin`` begins."""
        self._begin = 0
        self.scanned = 0
        self.buffer = b""
        while b"[" not in self.buffer and self.read_more():
            pass
        self._pass(self.buffer.index(b"[") + 1)
        self.scanned = self._begin

    @property
    def pending(self) -> int:
        """Bytes from the beginning of the element on."""
        return len(self.buffer) - self._begin

    def read_more(self) -> bool:
        """Lengthen the window, by as much as is pending: a long string is looked at a few times only."""
        more = self._stream.read(max(_CHUNK, self.pending))
        self.buffer = self.buffer[self._begin :] + more
        self.scanned = max(0, self.scanned - self._begin)
        self._begin = 0
        return bool(more)

    def element(self, stop: int) -> Record:
        """The element that ends before ``stop``, where a comma or the end of the list stands."""
        line, content = self._text(stop)
        self._pass(stop + 1)
        self._elements += 1
        return Record(line, len(content), content)

    def last_element(self, stop: int) -> Iterator[Record]:
        """The element before the end of the list, if the list has any."""
        if self._elements or self._text(stop)[1]:
            yield self.element(stop)
        else:
            self._pass(stop + 1)

    def unfinished_element(self) -> Iterator[Record]:
        """The element behind which the text ends, if nothing of it is open."""
        if b'"' not in self.buffer[self.scanned :] and self._text(len(self.buffer))[1]:
            yield self.element(len(self.buffer))

    def require_end(self, mark: bytes) -> None:
        """Nothing but white space may follow the list."""
        if mark != b"]":
            raise self.unreadable("the list is closed by }")
        while True:
            if self._text(len(self.buffer))[1]:
                raise self.unreadable("something follows the end of the list")
            self._pass(len(self.buffer))
            if not self.read_more():
                return

    def unreadable(self, reason: str) -> UnreadableError:
        """An error where the element begins."""
        line, rest = self._text(len(self.buffer))
        return UnreadableError(reason, line, rest)

    def _text(self, stop: int) -> tuple[int, bytes]:
        """Line and text of what ends before ``stop``, without white space around it."""
        content = self.buffer[self._begin : stop].lstrip()
        first = max(stop, self._begin) - len(content)
        return self._line + self.buffer.count(b"\n", self._begin, first), content.rstrip()

    def _pass(self, position: int) -> None:
        self._line += self.buffer.count(b"\n", self._begin, position)
        self._begin = min(position, len(self.buffer))
