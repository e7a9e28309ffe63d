"""Reading a memory-mapped indexed dataset, checked when it is opened."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import SupportsIndex, TypeVar, overload

import numpy as np
import numpy.typing as npt

from megadape.data.files import PathLike, reporting
from megadape.data.indexed_format import (
    DOCUMENT,
    HEADER,
    MAGIC,
    OFFSET,
    SIZE,
    VERSION,
    bin_path,
    dtype_of,
    idx_path,
)
from megadape.errors import DataError

Tokens = npt.NDArray[np.integer]

Scalar = TypeVar("Scalar", bound=np.integer)

_CHECKED_AT_ONCE = 1 << 20
"""Sequences checked at once when a dataset is opened; bounds the memory that the check takes."""


class IndexedDataset:
    """The token sequences of ``PREFIX.bin``, found through ``PREFIX.idx``; both stay on the disk and are mapped into
    memory.

    ``dataset[i]`` is sequence i as a read-only array in the file's dtype, ``dataset[a:b]`` a list of them. Opening
    checks the header, that every count agrees with the sizes of the files, that the offsets are the running sum of the
    sizes and that the document index runs from 0 to the number of sequences; ``DataError`` says what does not hold.

    Args:
        prefix: path of the pair without ``.bin`` and ``.idx``.
        multimodal: the index has one more byte per sequence, the mode (Megatron-core's multimodal variant).
    """

    def __init__(self, prefix: PathLike, *, multimodal: bool = False) -> None:
        self.prefix = Path(prefix)
        self.multimodal = multimodal
        idx, bin_ = idx_path(prefix), bin_path(prefix)
        _require_pair(self.prefix, idx, bin_)
        index = _map(idx)
        self.dtype, count, bounds = _read_header(index, idx, multimodal)
        start = HEADER.size
        self.sizes: npt.NDArray[np.int32] = _field(index, SIZE, start, count)
        self._offsets: npt.NDArray[np.int64] = _field(index, OFFSET, start + 4 * count, count)
        self.document_index: npt.NDArray[np.int64] = _field(index, DOCUMENT, start + 12 * count, bounds)
        self.modes: npt.NDArray[np.int8] | None = None
        if multimodal:
            self.modes = _field(index, np.dtype("<i1"), start + 12 * count + 8 * bounds, count)
        data = _map(bin_)
        _check_documents(self.document_index, count, idx)
        _check_offsets(self.sizes, self._offsets, self.dtype.itemsize, len(data), idx, bin_)
        self._tokens: Tokens = data.view(self.dtype)

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self.get(i) for i in range(*index.indices(len(self)))]
        return self.get(index)

    def get(self, index: SupportsIndex, offset: int = 0, length: int | None = None) -> Tokens:
        """``length`` tokens of one sequence from ``offset`` on (to its end when None); ``IndexError`` outside of it."""
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)} in {self.prefix}")
        size = int(self.sizes[i])
        stop = size if length is None else offset + length
        if not 0 <= offset <= stop <= size:
            raise IndexError(f"tokens {offset}:{stop} of sequence {i}, which has {size}, in {self.prefix}")
        first = int(self._offsets[i]) // self.dtype.itemsize
        return self._tokens[first + offset : first + stop]

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.prefix, self.multimodal)


def _reopen(prefix: Path, multimodal: bool) -> IndexedDataset:
    return IndexedDataset(prefix, multimodal=multimodal)


def _require_pair(prefix: Path, idx: Path, bin_: Path) -> None:
    if not idx.exists() and prefix.suffix in (".bin", ".idx") and prefix.exists():
        raise DataError(f"{prefix} is one file of a pair: give the prefix without its ending, {prefix.with_suffix('')}")
    for path, other in ((idx, bin_), (bin_, idx)):
        if not path.is_file():
            found = f" ({other} is there: the pair is incomplete)" if other.exists() else ""
            raise DataError(f"there is no {path}{found}: give the prefix of a preprocessed dataset")


def _map(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a file, mapped read-only."""
    with reporting("read", path):
        if path.stat().st_size == 0:  # the system refuses to map an empty file
            return np.empty(0, np.uint8)
        return np.asarray(np.memmap(path, np.uint8, mode="r"))


def _field(index: npt.NDArray[np.uint8], dtype: np.dtype[Scalar], start: int, count: int) -> npt.NDArray[Scalar]:
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
    plain = HEADER.size + 12 * count + 8 * bounds
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


def _check_documents(documents: npt.NDArray[np.int64], count: int, path: Path) -> None:
    if len(documents) == 0 or documents[0] != 0 or documents[-1] != count:
        ends = "is empty" if len(documents) == 0 else f"runs from {documents[0]} to {documents[-1]}"
        raise DataError(f"the document index of {path} {ends}, but must run from 0 to {count}, the number of sequences")
    for start in range(0, len(documents), _CHECKED_AT_ONCE):
        if (np.diff(documents[start : start + _CHECKED_AT_ONCE + 1]) < 0).any():
            raise DataError(f"the document index of {path} decreases: the file is damaged")


def _check_offsets(
    sizes: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], itemsize: int, bin_size: int, idx: Path, bin_: Path
) -> None:
    end = 0
    for start in range(0, len(sizes), _CHECKED_AT_ONCE):
        block = sizes[start : start + _CHECKED_AT_ONCE].astype(np.int64)
        if (block < 0).any():
            raise DataError(f"{idx} gives a sequence a negative number of tokens: the file is damaged")
        ends = end + np.cumsum(block) * itemsize
        wrong = offsets[start : start + len(block)] != ends - block * itemsize
        if wrong.any():
            raise DataError(
                f"{idx} places sequence {start + int(wrong.argmax())} where the one before does not end: it is damaged"
            )
        end = int(ends[-1])
    if end != bin_size:
        raise DataError(
            f"{bin_} has {bin_size} bytes, but its index means {end}: it is truncated or belongs to another index"
        )
