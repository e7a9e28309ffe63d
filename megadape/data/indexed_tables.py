"""The tables of an ``.idx`` file, and everything that can be wrong with them.

Nothing that the file says is believed before it is compared with the file's size: counts up to 2^64 cost neither memory
nor time. The tables stay on the disk and are mapped into memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from megadape.data.files import reporting
from megadape.data.indexed_format import DOCUMENT, HEADER, MAGIC, OFFSET, SIZE, VERSION, dtype_of
from megadape.errors import DataError

Scalar = TypeVar("Scalar", bound=np.integer)

MODE: np.dtype[np.int8] = np.dtype("<i1")

_CHECKED_AT_ONCE = 1 << 17
"""Entries checked at once; bounds the memory that the checks take."""


class IndexTables(NamedTuple):
    """What an ``.idx`` file says, for N sequences and D - 1 documents."""

    dtype: np.dtype[np.integer]
    """Of the token ids."""
    sizes: npt.NDArray[np.int32]
    """[N], tokens of each sequence."""
    offsets: npt.NDArray[np.int64]
    """[N], first byte of each sequence in ``.bin``."""
    documents: npt.NDArray[np.int64]
    """[D], first sequence of each document, and N."""
    modes: npt.NDArray[np.int8] | None
    """[N], in the multimodal variant."""


class MappedFile(NamedTuple):
    """A file's bytes, mapped read-only."""

    path: Path
    data: npt.NDArray[np.uint8]
    mapping: mmap.mmap | None
    """None for an empty file, which the system refuses to map."""
    identity: tuple[int, int]
    """Device and inode: another file of the same name has others."""

    def release(self) -> None:
        """Give the memory of what was read back; the next reading maps it again."""
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def open(self) -> FileIO:
        """The same file, for reading here and there: what is read so stays in no one's memory."""
        with reporting("read", self.path):
            file = FileIO(self.path)
        if _identity(file) != self.identity:
            file.close()
            raise DataError(f"{self.path} was replaced while it was read: start again")
        return file


def map_file(path: Path) -> MappedFile:
    """Map a file into memory."""
    with reporting("read", path), FileIO(path) as file:
        identity = _identity(file)
        if os.fstat(file.fileno()).st_size == 0:
            return MappedFile(path, np.empty(0, np.uint8), None, identity)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return MappedFile(path, np.frombuffer(mapping, np.uint8), mapping, identity)


def _identity(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def read_tables(path: Path, multimodal: bool = False) -> IndexTables:
    """The tables of an index whose header agrees with its size; ``DataError`` otherwise. What they say is not checked.

    Args:
        path: of the ``.idx`` file.
        multimodal: the index has one more byte per sequence, the mode.
    """
    index = map_file(path).data
    dtype, count, bounds = _read_header(index, path, multimodal)
    start = HEADER.size
    return IndexTables(
        dtype,
        _table(index, SIZE, start, count),
        _table(index, OFFSET, start + 4 * count, count),
        _table(index, DOCUMENT, start + 12 * count, bounds),
        _table(index, MODE, start + 12 * count + 8 * bounds, count) if multimodal else None,
    )


def find_problems(tables: IndexTables, bin_size: int, idx: Path, bin_: Path) -> Iterator[str]:
    """A sentence for everything that is wrong with the tables, at most one for each kind of mistake.

    Args:
        tables: what the index says.
        bin_size: bytes of ``.bin``.
        idx: what to call the index.
        bin_: what to call the data.
    """
    yield from _document_problems(tables.documents, len(tables.sizes), idx)
    yield from _offset_problems(tables, bin_size, idx, bin_)


def _table(index: npt.NDArray[np.uint8], dtype: np.dtype[Scalar], start: int, count: int) -> npt.NDArray[Scalar]:
    return index[start : start + count * dtype.itemsize].view(dtype)


def _read_header(index: npt.NDArray[np.uint8], path: Path, multimodal: bool) -> tuple[np.dtype[np.integer], int, int]:
    """Token dtype, number of sequences, length of the document index; counts are bounded by the size of the file."""
    head = index[: HEADER.size].tobytes()
    if head[: len(MAGIC)] != MAGIC[: len(head)] or not head:
        raise DataError(f"{path} is not an index of this format: it begins with {head[:9]!r} and not with {MAGIC!r}")
    if len(head) < HEADER.size:
        raise DataError(f"{path} is truncated: {len(head)} bytes are fewer than its header of {HEADER.size}")
    _, version, code, count, bounds = HEADER.unpack(head)
    if version != VERSION:
        raise DataError(f"{path} has format version {version}: only version {VERSION} can be read")
    dtype = dtype_of(code, path)
    plain = HEADER.size + 12 * count + 8 * bounds  # Python's integers: nothing overflows
    expected = plain + (count if multimodal else 0)
    if len(index) != expected:
        other = plain if multimodal else plain + count
        hint = (
            f"; it fits multimodal={not multimodal}"
            if len(index) == other and count
            else "; it is truncated or damaged"
        )
        raise DataError(
            f"{path} has {len(index)} bytes, but its header ({count} sequences, {bounds} document bounds) "
            f"means {expected}{hint}"
        )
    return dtype, count, bounds


def _document_problems(documents: npt.NDArray[np.int64], count: int, path: Path) -> Iterator[str]:
    if len(documents) == 0 or documents[0] != 0 or documents[-1] != count:
        ends = "is empty" if len(documents) == 0 else f"runs from {documents[0]} to {documents[-1]}"
        yield f"the document index of {path} {ends}, but must run from 0 to {count}, the number of sequences"
    for start in range(0, len(documents) - 1, _CHECKED_AT_ONCE):
        block = documents[start : start + _CHECKED_AT_ONCE + 1]
        falls = block[1:] < block[:-1]  # compared and not subtracted: differences of damaged bounds overflow
        if falls.any():
            yield f"the document index of {path} decreases after document {start + int(falls.argmax())}: it is damaged"
            return


def _offset_problems(tables: IndexTables, bin_size: int, idx: Path, bin_: Path) -> Iterator[str]:
    sizes, itemsize, end = tables.sizes, tables.dtype.itemsize, 0
    for start in range(0, len(sizes), _CHECKED_AT_ONCE):
        block = sizes[start : start + _CHECKED_AT_ONCE].astype(np.int64)
        if (block < 0).any():
            where = start + int((block < 0).argmax())
            yield f"{idx} gives sequence {where} a negative number of tokens: it is damaged"
            return
        ends = end + np.cumsum(block) * itemsize  # below 2^63 + 2^54, since end is no more than the size of a file
        wrong = tables.offsets[start : start + len(block)] != ends - block * itemsize
        if wrong.any():
            where = start + int(wrong.argmax())
            yield f"{idx} places sequence {where} where the one before does not end: it is damaged"
            return
        end = int(ends[-1])
        if end > bin_size:
            break
    if end != bin_size:
        means = f"{end} or more" if end > bin_size else str(end)
        yield f"{bin_} has {bin_size} bytes, but its index means {means}: it is truncated or belongs to another index"
