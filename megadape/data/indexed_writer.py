"""Writing an indexed dataset: streamed, checked, and visible only when it is complete."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from megadape.data.files import PathLike, StagedFiles, reporting
from megadape.data.indexed_format import DOCUMENT, HEADER, MAGIC, OFFSET, SIZE, VERSION, bin_path, code_of, idx_path
from megadape.errors import DataError, MegadapeError

_MAX_SEQUENCE = np.iinfo(np.int32).max
_WRITTEN_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class WrittenPair:
    """What a finished pair holds."""

    sequences: int
    documents: int
    tokens: int
    bin_size: int
    bin_sha256: str
    idx_size: int
    idx_sha256: str


class IndexedDatasetWriter:
    """Writes ``PREFIX.bin`` and ``PREFIX.idx``, byte for byte as Megatron-core does.

    Both are written under temporary names in the same folder; ``finalize`` flushes them, removes an old index, renames
    ``.bin`` and then ``.idx``: whatever is killed when, an index never stands beside data that it does not describe. As
    a context manager it finalises on leaving the block and removes the temporary files after an error.

    Args:
        prefix: path of the pair without ``.bin`` and ``.idx``; its folder is made if need be.
        dtype: type of the token ids: u8, i8, i16, i32, i64 or u16; see ``best_dtype``.
    """

    def __init__(self, prefix: PathLike, dtype: npt.DTypeLike) -> None:
        self.prefix = Path(prefix)
        self._code = code_of(dtype)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        # arrays of machine integers: a list of 31 million Python integers takes gigabytes
        self._sizes = array("i")
        self._documents = array("q", [0])
        self._tokens = 0
        self._written: WrittenPair | None = None
        self._staged = StagedFiles()
        self._bin_path = bin_path(prefix)
        temporary = self._staged.add(self._bin_path)
        with reporting("write", self._bin_path):
            self._bin = _HashedFile(temporary)

    def add_document(self, sequences: Sequence[npt.ArrayLike]) -> None:
        """Add one document of any number of sequences of token ids; an empty list is an empty document."""
        with self._open():
            arrays = [self._checked(sequence) for sequence in sequences]
            for tokens in arrays:
                self._append(tokens)
            self._documents.append(len(self._sizes))

    def add_documents(self, tokens: npt.ArrayLike, lengths: npt.ArrayLike) -> None:
        """Add many documents at once, each of one sequence, or of none where its length is 0.

        Args:
            tokens: [sum of lengths], the token ids of all documents, concatenated.
            lengths: [documents], tokens of each document.
        """
        with self._open():
            ids, counts = self._checked(tokens), np.asarray(lengths, np.int64)
            assert counts.sum() == len(ids), "lengths must add up to the tokens given"
            if counts.size and counts.max() > _MAX_SEQUENCE:
                raise DataError(f"a document of {counts.max()} tokens: a sequence holds at most {_MAX_SEQUENCE}")
            filled = counts > 0
            self._documents.frombytes((len(self._sizes) + np.cumsum(filled)).astype(np.int64).tobytes())
            self._sizes.frombytes(counts[filled].astype(np.int32).tobytes())
            self._tokens += len(ids)
            self._write(ids)

    def seal(self) -> WrittenPair:
        """Write the index and flush both files, still under their temporary names; nothing can be added any more."""
        if self._written is None:
            with self._open():
                with reporting("write", self._bin_path):
                    self._bin.sync()
                self._bin.close()
                size, digest = self._write_index()
                self._written = WrittenPair(
                    sequences=len(self._sizes),
                    documents=len(self._documents) - 1,
                    tokens=self._tokens,
                    bin_size=self._bin.size,
                    bin_sha256=self._bin.hash.hexdigest(),
                    idx_size=size,
                    idx_sha256=digest,
                )
        return self._written

    def stage(self, path: Path, content: bytes) -> None:
        """Write another small file that is to appear together with the pair, after it."""
        with self._discarding():
            self._staged.write(path, content)

    def finalize(self) -> WrittenPair:
        """Make the pair visible under its final names and return what it holds."""
        written = self.seal()
        with self._discarding():
            self._staged.commit()
        return written

    def discard(self) -> None:
        """Remove everything that is not finalised."""
        self._bin.close()
        self._staged.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finalize()
        else:
            self.discard()

    @contextmanager
    def _open(self) -> Iterator[None]:
        if self._written is not None or self._bin.closed:
            raise DataError(f"the writer of {self.prefix} is finished: nothing can be added to it")
        with self._discarding():
            yield

    @contextmanager
    def _discarding(self) -> Iterator[None]:
        try:
            yield
        except MegadapeError:
            self.discard()
            raise

    def _checked(self, sequence: npt.ArrayLike) -> npt.NDArray[np.integer]:
        """A sequence in the file's dtype; ids that do not fit are an error and never wrap around."""
        ids = np.asarray(sequence)
        if ids.ndim != 1:
            raise DataError(
                f"{self.prefix}: a document is a list of sequences of token ids, but a sequence has shape {ids.shape}"
            )
        if ids.size == 0:
            return np.empty(0, self.dtype)
        if ids.dtype.kind not in "iu":
            raise DataError(f"{self.prefix}: token ids must be integers, not {ids.dtype}")
        if not np.can_cast(ids.dtype, self.dtype):
            low, high, bounds = int(ids.min()), int(ids.max()), np.iinfo(self.dtype)
            if low < bounds.min or high > bounds.max:
                wrong = low if low < bounds.min else high
                raise DataError(f"{self.prefix}: token id {wrong} does not fit {self.dtype.name}: choose a wider dtype")
        return ids.astype(self.dtype, copy=False)

    def _append(self, tokens: npt.NDArray[np.integer]) -> None:
        if len(tokens) > _MAX_SEQUENCE:
            raise DataError(
                f"{self.prefix}: a sequence of {len(tokens)} tokens; the format holds at most {_MAX_SEQUENCE}"
            )
        self._sizes.append(len(tokens))
        self._tokens += len(tokens)
        self._write(tokens)

    def _write(self, tokens: npt.NDArray[np.integer]) -> None:
        with reporting("write", self._bin_path):
            self._bin.write(tokens)

    def _write_index(self) -> tuple[int, str]:
        """Size and digest of the index, written under its temporary name."""
        path = idx_path(self.prefix)
        temporary = self._staged.add(path)
        sizes = np.frombuffer(self._sizes, np.int32) if self._sizes else np.empty(0, np.int32)
        documents = np.frombuffer(self._documents, np.int64)
        with reporting("write", path):
            file = _HashedFile(temporary)
            try:
                file.write(HEADER.pack(MAGIC, VERSION, self._code, len(sizes), len(documents)))
                for start in range(0, len(sizes), _WRITTEN_AT_ONCE):
                    file.write(sizes[start : start + _WRITTEN_AT_ONCE].astype(SIZE))
                end = 0
                for start in range(0, len(sizes), _WRITTEN_AT_ONCE):
                    block = sizes[start : start + _WRITTEN_AT_ONCE].astype(OFFSET) * self.dtype.itemsize
                    ends = end + np.cumsum(block)
                    file.write((ends - block).astype(OFFSET))
                    end = int(ends[-1])
                file.write(documents.astype(DOCUMENT, copy=False))
                file.sync()
            finally:
                file.close()
        return file.size, file.hash.hexdigest()


class _HashedFile:
    """A file being written, with its size and SHA-256 so far."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        self.hash = hashlib.sha256()
        self.size = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes | npt.NDArray[np.integer]) -> None:
        view = memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).view(np.uint8).data
        self._file.write(view)
        self.hash.update(view)
        self.size += len(view)

    def sync(self) -> None:
        """Flush everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # after a failed write the buffer is still full, and closing tries to flush it again
            self._file.close()
