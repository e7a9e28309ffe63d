"""Reading a memory-mapped indexed dataset, checked when it is opened."""

from __future__ import annotations

import operator
from io import FileIO
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from megadape.data.files import PathLike
from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.indexed_tables import find_problems, map_file, read_tables
from megadape.errors import DataError

Tokens = npt.NDArray[np.integer]


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
        require_pair(self.prefix)
        tables, self._data = read_tables(idx, multimodal), map_file(bin_)
        for problem in find_problems(tables, len(self._data.data), idx, bin_):
            raise DataError(problem)
        self.dtype = tables.dtype
        self.sizes = tables.sizes
        self.document_index = tables.documents
        self.modes = tables.modes
        self._offsets = tables.offsets
        self.tokens: Tokens = self._data.data.view(self.dtype)
        """The ids of all sequences, concatenated."""

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
        return self.tokens[first + offset : first + stop]

    def starts(self, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where in ``tokens`` sequences begin; sequence ``len(self)``, which there is not, begins at the end."""
        positions = np.full(len(sequences), len(self.tokens), np.int64)
        inside = sequences < len(self)
        positions[inside] = self._offsets[sequences[inside]] // self.dtype.itemsize
        return positions

    def release(self) -> None:
        """Give the memory of the tokens read so far back to the system; what reads on need not know."""
        self._data.release()

    def open_bin(self) -> FileIO:
        """``PREFIX.bin``, for reading here and there without mapping it."""
        return self._data.open()

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.prefix, self.multimodal)


def _reopen(prefix: Path, multimodal: bool) -> IndexedDataset:
    return IndexedDataset(prefix, multimodal=multimodal)


def require_pair(prefix: Path) -> None:
    """``DataError`` unless both files of a dataset are there."""
    idx, bin_ = idx_path(prefix), bin_path(prefix)
    if not idx.exists() and prefix.suffix in (".bin", ".idx") and prefix.exists():
        raise DataError(f"{prefix} is one file of a pair: give the prefix without its ending, {prefix.with_suffix('')}")
    for path, other in ((idx, bin_), (bin_, idx)):
        if not path.is_file():
            found = f" ({other} is there: the pair is incomplete)" if other.exists() else ""
            raise DataError(f"there is no {path}{found}: give the prefix of a preprocessed dataset")
