"""Pieces of a corpus: what a file is cut into when the work is planned, and how pieces are cut into blocks.

A piece can be worked on without any other: a range of a plain file, a few small files, a row group, or a whole file
that can only be read from its beginning. Its blocks are the same in every run.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from megadape.data.files import reporting
from megadape.data.reading.blocks import LineRange, SeparatedRange, TextFiles
from megadape.data.reading.contents import Block
from megadape.data.reading.cutting import StreamBlock
from megadape.data.reading.digests import SourceDigests
from megadape.data.reading.hub import HubDataset
from megadape.data.reading.inputs import StoredFile
from megadape.data.reading.parquet import RowGroups, row_blocks
from megadape.data.reading.records import Selection
from megadape.data.reading.streams import FileStream, HashedInput, opened

_CHUNK = 1 << 20


class Piece(Protocol):
    """A part of a corpus."""

    @property
    def source(self) -> int:
        """Number of its source, or the first of them."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the input, as they are stored; 0 when they are not known before."""
        ...

    def blocks(self, digests: SourceDigests) -> Iterator[Block]:
        """The blocks in order; the digests of its files are looked after."""
        ...


@dataclass(frozen=True)
class RangePiece:
    """A range of a plain file whose records begin at lines."""

    source: int
    file: StoredFile
    start: int
    stop: int
    block_bytes: int
    separator: bytes | None
    """Line between documents of plain text; None when every line is a JSON object."""

    @property
    def size(self) -> int:
        """Bytes of the range."""
        return self.stop - self.start

    def blocks(self, digests: SourceDigests) -> Iterator[Block]:
        """Ranges of equal size; of an empty piece none."""
        for start in range(self.start, self.stop, self.block_bytes):
            stop = min(start + self.block_bytes, self.stop)
            digests.read_to(self.source, self.file, stop)
            if self.separator is None:
                yield LineRange(self.source, self.file.path, start, stop)
            else:
                yield SeparatedRange(self.source, self.file.path, start, stop, self.separator)
        digests.read_to(self.source, self.file, self.stop)

    def lines_before(self) -> int:
        """Lines of the file that begin no later than the range, counted by reading them."""
        with reporting("read", self.file.path), self.file.path.open("rb") as file:
            ends = sum(
                file.read(min(_CHUNK, self.start - start)).count(b"\n") for start in range(0, self.start, _CHUNK)
            )
        return ends + 1 if self.start else 0


@dataclass(frozen=True)
class TextPiece:
    """Files of plain text, each one document."""

    files: tuple[tuple[int, StoredFile], ...]

    @property
    def source(self) -> int:
        """Number of the first."""
        return self.files[0][0]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.size for _, file in self.files)

    def blocks(self, digests: SourceDigests) -> Iterator[Block]:
        """All of them at once; the worker computes their digests."""
        yield TextFiles(self.files)


@dataclass(frozen=True)
class RowGroupPiece:
    """Row groups of a Parquet file."""

    source: int
    file: StoredFile
    groups: RowGroups
    columns: list[str]
    block_bytes: int
    last: bool
    """Whether they are the last of their file."""

    @property
    def size(self) -> int:
        """Bytes of the columns."""
        return self.groups.stored

    def blocks(self, digests: SourceDigests) -> Iterator[Block]:
        """Rows of about equal size together."""
        left = self.size
        for block in row_blocks(self.file.path, self.source, self.groups, self.columns, self.block_bytes):
            block.stored = min(left, len(block.table))
            left -= block.stored
            yield block
        if self.last:
            digests.read_to(self.source, self.file, self.file.size)


@dataclass(frozen=True)
class StreamPiece:
    """What can be read only from its beginning: a compressed file, a JSON list, standard input."""

    source: int
    size: int
    open: Callable[[], AbstractContextManager[FileStream]]
    cut: Callable[[FileStream, int], Iterator[StreamBlock]]
    file: StoredFile | None = None

    def blocks(self, digests: SourceDigests) -> Iterator[Block]:
        """Unpacked and cut here."""
        with self.open() as stream:
            counted = 0
            for block in self.cut(stream, self.source):
                block.stored = stream.raw.count - counted
                counted = stream.raw.count
                yield block
            digests.put(self.source, stream.raw.finish())
        if self.file is not None:
            self.file.require_unchanged()


def open_file(path: Path) -> Callable[[], AbstractContextManager[FileStream]]:
    """How a file is opened as a stream."""
    return lambda: opened(path)


@contextmanager
def open_stdin() -> Iterator[FileStream]:
    """Standard input as a stream."""
    with HashedInput(io.FileIO(sys.stdin.fileno(), closefd=False)) as raw:
        yield FileStream(raw, "")


def open_hub(dataset: HubDataset, selection: Selection) -> Callable[[], AbstractContextManager[FileStream]]:
    """A dataset's rows as a stream of lines."""

    @contextmanager
    def open_lines() -> Iterator[FileStream]:
        with HashedInput(_Joined(dataset.lines(selection))) as raw:
            yield FileStream(raw, "")

    return open_lines


class _Joined(io.RawIOBase):
    """Lines one after another as a stream."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._left:
            self._left = memoryview(next(self._lines, b""))
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
