"""What can be wrong with the tokens of a dataset whose index is sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megadape.data.indexed import IndexedDataset
from megadape.data.indexed_tables import MappedFile
from megadape.data.maintenance.metering import Meter

BLOCK = 1 << 22
"""Bytes read at once; a multiple of the size of every type of token."""

_DOCUMENTS_AT_ONCE = 1 << 14


def read_blocks(data: MappedFile, numbers: Iterable[int], meter: Meter) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Some blocks of a file, each with the place of its first byte; one at a time is in memory."""
    for number in numbers:
        start = number * BLOCK
        block = data.data[start : start + BLOCK]
        yield start, block
        data.release()
        meter.add(len(block))


class IdCheck:
    """Looks for ids that no vocabulary, or not the dataset's own, has.

    Args:
        dtype: of the tokens.
        vocab_size: ids are 0 to vocab_size - 1; None where it is unknown.
    """

    def __init__(self, dtype: np.dtype[np.integer], vocab_size: int | None) -> None:
        self._dtype, self._vocab_size = dtype, vocab_size
        self._first: tuple[int, int] | None = None
        self._count = 0

    def add(self, start: int, block: npt.NDArray[np.uint8]) -> None:
        """Look at a block of ``.bin``."""
        tokens = block.view(self._dtype)
        largest = np.iinfo(self._dtype).max if self._vocab_size is None else self._vocab_size - 1
        if tokens.min() >= 0 and tokens.max() <= largest:
            return
        wrong = np.flatnonzero((tokens < 0) | (tokens > largest))
        if self._first is None:
            self._first = start // self._dtype.itemsize + int(wrong[0]), int(tokens[wrong[0]])
        self._count += len(wrong)

    def problems(self, path: Path) -> Iterator[str]:
        """What was found."""
        if self._first is not None:
            place, token = self._first
            known = "ids are not negative" if self._vocab_size is None else f"ids are 0 to {self._vocab_size - 1}"
            yield f"{path} holds the id {token} at token {place}{_and_others(self._count)}, but {known}"


def end_problems(pair: IndexedDataset, eod: int, sample: int | None) -> Iterator[str]:
    """Documents that do not end with the end token.

    Args:
        pair: the dataset.
        eod: the end token.
        sample: look at so many documents, evenly spread; at all when None.
    """
    documents = len(pair.document_index) - 1
    looked_at = documents if sample is None else min(sample, documents)
    first, count = -1, 0
    for start in range(0, looked_at, _DOCUMENTS_AT_ONCE):
        places = np.arange(start, min(start + _DOCUMENTS_AT_ONCE, looked_at))
        # Python's integers where the product is large: a sample has few places
        numbers = places if looked_at == documents else np.array([int(k) * documents // looked_at for k in places])
        wrong = numbers[~_ends_with(pair, numbers, eod)]
        first = int(wrong[0]) if len(wrong) and first < 0 else first
        count += len(wrong)
        pair.release()
    if count:
        yield (
            f"document {first} of {pair.prefix}{_and_others(count)} does not end with the end token {eod}, though the "
            "manifest says that every document does"
        )


def _ends_with(pair: IndexedDataset, documents: npt.NDArray[np.int64], token: int) -> npt.NDArray[np.bool_]:
    """[documents], whether the last token is that; not so for a document without tokens."""
    begins = pair.starts(pair.document_index[documents])
    ends = pair.starts(pair.document_index[documents + 1])
    right = begins < ends
    right[right] = pair.tokens[ends[right] - 1] == token
    return right


def _and_others(count: int) -> str:
    return f" (and {count - 1:,} others)" if count > 1 else ""
