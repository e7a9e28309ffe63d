"""A pair of files that grows, and goes on growing after a kill.

While it grows there are the ids (``.bin``) and the length of every document (``.lengths``); the index is made from the
lengths in the end. Nothing of a document stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megadape.data.files import HashedFile, reporting
from megadape.data.indexed_writer import WrittenPair, write_index
from megadape.data.preprocessing.copying import DamagedWorkError, append_file
from megadape.settings import Settings

_LENGTH: np.dtype[np.int32] = np.dtype("<i4")
_AT_ONCE = 1 << 20


class PairMark(Settings):
    """How far a pair is."""

    documents: int = 0
    sequences: int = 0
    """Documents that are not empty of tokens."""
    tokens: int = 0
    bin_size: int = 0
    bin_sha256: str = ""
    """Of the first ``bin_size`` bytes."""
    lengths_sha256: str = ""


class GrowingPair:
    """Writes ids and lengths, and in the end the index.

    Args:
        folder: where the files are.
        name: of the dataset, without endings.
        dtype: of the ids.
        mark: goes on from there; what stands behind it in the files is cut off.
    """

    def __init__(self, folder: Path, name: str, dtype: np.dtype[np.integer], mark: PairMark | None = None) -> None:
        self._dtype = dtype
        self._bin_path, self._idx_path = folder / f"{name}.bin", folder / f"{name}.idx"
        self._lengths_path = folder / f"{name}.lengths"
        if mark is not None and not (self._bin_path.exists() and self._lengths_path.exists()):
            raise DamagedWorkError(
                f"{folder} lacks files of the killed run: start again with --no-resume (resume=False)"
            )
        mark = mark or PairMark()
        self._documents, self._sequences, self._tokens = mark.documents, mark.sequences, mark.tokens
        with reporting("write", self._bin_path):
            self._bin = HashedFile(self._bin_path, keep=mark.bin_size)
            self._lengths = HashedFile(self._lengths_path, keep=mark.documents * _LENGTH.itemsize)
        if mark.bin_sha256 and self.mark().model_dump() != mark.model_dump(include=set(PairMark.model_fields)):
            raise DamagedWorkError(
                f"{self._bin_path} is not what the killed run wrote there: start again with --no-resume (resume=False)"
            )

    def add(self, tokens: npt.NDArray[np.integer], lengths: npt.NDArray[np.int32]) -> None:
        """Add documents.

        Args:
            tokens: [sum of lengths], ids of all documents, concatenated.
            lengths: [documents], ids of each.
        """
        assert lengths.sum(dtype=np.int64) == len(tokens), "lengths must add up to the tokens given"
        with reporting("write", self._bin_path):
            self._bin.write(tokens.astype(self._dtype, copy=False))
        with reporting("write", self._lengths_path):
            self._lengths.write(lengths.astype(_LENGTH, copy=False))
        self._documents += len(lengths)
        self._sequences += int(np.count_nonzero(lengths))
        self._tokens += len(tokens)

    def extend(self, folder: Path, name: str, mark: PairMark) -> None:
        """Add all documents of a pair of the same dtype that has grown elsewhere.

        Args:
            folder: where its files are.
            name: of them, without endings.
            mark: how far it is; ``DamagedWorkError`` when its files are not what the mark says.
        """
        with reporting("write", self._bin_path):
            append_file(folder / f"{name}.bin", self._bin, mark.bin_size, mark.bin_sha256)
            size = mark.documents * _LENGTH.itemsize
            append_file(folder / f"{name}.lengths", self._lengths, size, mark.lengths_sha256)
        self._documents += mark.documents
        self._sequences += mark.sequences
        self._tokens += mark.tokens

    def mark(self) -> PairMark:
        """How far it is; what is behind the mark may be lost until ``sync``."""
        with reporting("write", self._bin_path):
            self._bin.flush()
            self._lengths.flush()
        return PairMark(
            documents=self._documents,
            sequences=self._sequences,
            tokens=self._tokens,
            bin_size=self._bin.size,
            bin_sha256=self._bin.hash.hexdigest(),
            lengths_sha256=self._lengths.hash.hexdigest(),
        )

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        with reporting("write", self._bin_path):
            self._bin.sync()
            self._lengths.sync()

    def seal(self) -> WrittenPair:
        """Write the index; nothing can be added any more."""
        self.sync()
        mark = self.mark()
        self.close()
        with reporting("write", self._idx_path):
            size, digest = write_index(
                self._idx_path, self._dtype, mark.sequences, mark.documents + 1, self._sizes, self._bounds()
            )
        return WrittenPair(
            sequences=mark.sequences,
            documents=mark.documents,
            tokens=mark.tokens,
            bin_size=mark.bin_size,
            bin_sha256=mark.bin_sha256,
            idx_size=size,
            idx_sha256=digest,
        )

    def close(self) -> None:
        """Close the files."""
        self._bin.close()
        self._lengths.close()

    def _read_lengths(self) -> Iterator[npt.NDArray[np.int32]]:
        with self._lengths_path.open("rb") as file:
            while chunk := file.read(_AT_ONCE * _LENGTH.itemsize):
                yield np.frombuffer(chunk, _LENGTH)

    def _sizes(self) -> Iterator[npt.NDArray[np.int32]]:
        """Tokens of each sequence: a document without tokens has none."""
        for lengths in self._read_lengths():
            yield lengths[lengths > 0]

    def _bounds(self) -> Iterator[npt.NDArray[np.int64]]:
        """First sequence of each document."""
        sequences = np.int64(0)
        yield np.zeros(1, np.int64)
        for lengths in self._read_lengths():
            bounds = sequences + np.cumsum(lengths > 0, dtype=np.int64)
            sequences = bounds[-1]
            yield bounds
