"""Writing an indexed dataset: streamed, checked, and visible only when it is complete."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from megadape.data.files import HashedFile, PathLike, StagedFiles, reporting
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
        staged: where to stage the files, when they are to appear together with those of other writers.
    """

    def __init__(self, prefix: PathLike, dtype: npt.DTypeLike, staged: StagedFiles | None = None) -> None:
        self.prefix = Path(prefix)
        code_of(dtype)  # the format must have one
        self.dtype = np.dtype(dtype).newbyteorder("<")
        # arrays of machine integers: a list of 31 million Python integers takes gigabytes
        self._sizes = array("i")
        self._documents = array("q", [0])
        self._tokens = 0
        self._written: WrittenPair | None = None
        self._staged = StagedFiles() if staged is None else staged
        self._bin_path = bin_path(prefix)
        temporary = self._staged.add(self._bin_path)
        with reporting("write", self._bin_path):
            self._bin = HashedFile(temporary)

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
        counts = np.asarray(lengths, np.int64)
        filled = counts > 0
        self.add_sequences(tokens, counts[filled], filled)

    def add_sequences(self, tokens: npt.ArrayLike, sizes: npt.ArrayLike, sequences: npt.ArrayLike) -> None:
        """Add many documents at once, each of any number of sequences.

        Args:
            tokens: [sum of sizes], the token ids of all sequences, concatenated.
            sizes: [sequences], tokens of each sequence.
            sequences: [documents], sequences of each document.
        """
        with self._open():
            ids, counts = self._checked(tokens), np.asarray(sizes, np.int64)
            bounds = len(self._sizes) + np.cumsum(np.asarray(sequences, np.int64))
            assert counts.sum() == len(ids), "sizes must add up to the tokens given"
            assert len(counts) == (bounds[-1] - len(self._sizes) if bounds.size else 0), "each sequence has a document"
            if counts.size and counts.max() > _MAX_SEQUENCE:
                raise DataError(f"a sequence of {counts.max()} tokens: the format holds at most {_MAX_SEQUENCE}")
            self._documents.frombytes(bounds.tobytes())
            self._sizes.frombytes(counts.astype(np.int32).tobytes())
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
        """Ids that fit the file's dtype; those that do not are an error and never wrap around."""
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
        return ids

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
            # a piece at a time: what is converted is never all in memory
            for start in range(0, len(tokens), _WRITTEN_AT_ONCE):
                self._bin.write(tokens[start : start + _WRITTEN_AT_ONCE].astype(self.dtype, copy=False))

    def _write_index(self) -> tuple[int, str]:
        """Size and digest of the index, written under its temporary name."""
        path = idx_path(self.prefix)
        temporary = self._staged.add(path)
        sizes = np.frombuffer(self._sizes, np.int32) if self._sizes else np.empty(0, np.int32)
        documents = np.frombuffer(self._documents, np.int64)
        with reporting("write", path):
            return write_index(temporary, self.dtype, len(sizes), len(documents), lambda: _parts(sizes), [documents])


def write_index(
    path: Path,
    dtype: npt.DTypeLike,
    sequences: int,
    bounds: int,
    sizes: Callable[[], Iterable[npt.NDArray[np.int32]]],
    documents: Iterable[npt.NDArray[np.int64]],
) -> tuple[int, str]:
    """Write an ``.idx`` file, flushed to the disk; its size and SHA-256.

    Args:
        path: of the file.
        dtype: of the token ids.
        sequences: N.
        bounds: D, documents + 1.
        sizes: gives, each time, the tokens of all sequences, in parts.
        documents: first sequence of each document and N, in parts.
    """
    file, end = HashedFile(path), 0
    try:
        file.write(HEADER.pack(MAGIC, VERSION, code_of(dtype), sequences, bounds))
        for part in sizes():
            file.write(part.astype(SIZE, copy=False))
        for part in sizes():
            size = part.astype(OFFSET) * np.dtype(dtype).itemsize
            ends = end + np.cumsum(size)
            file.write((ends - size).astype(OFFSET, copy=False))
            end = int(ends[-1]) if ends.size else end
        for bound in documents:
            file.write(bound.astype(DOCUMENT, copy=False))
        assert file.size == HEADER.size + 12 * sequences + 8 * bounds, "sizes and documents must be as many as said"
        file.sync()
    finally:
        file.close()
    return file.size, file.hash.hexdigest()


def _parts(sizes: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int32]]:
    for start in range(0, len(sizes), _WRITTEN_AT_ONCE):
        yield sizes[start : start + _WRITTEN_AT_ONCE]
