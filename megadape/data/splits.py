"""Which sequences train, which validate, which test.

``range`` cuts the sequences in their order, as Megatron does; a corpus sorted by source or date is then split by it.
``hash`` deals whole documents by a seeded hash of their number and has no such bias.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from megadape.data.indexed import IndexedDataset
from megadape.errors import DataError

SplitBy = Literal["range", "hash"]


class SplitSequences(NamedTuple):
    """Ids of the sequences of each split, increasing."""

    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def parse_split(split: str) -> tuple[float, float, float]:
    """The three shares of "969,30,1", normalised to add up to 1; one or two numbers leave the rest at 0."""
    parts = [part.strip() for part in re.split("[,/]", split)]
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"\d+\.?\d*|\.\d+", part) for part in parts):
        raise DataError(
            f"the split {split!r} is malformed: give the shares of training, validation and test, such as 969,30,1"
        )
    shares = np.zeros(3)
    shares[: len(parts)] = [float(part) for part in parts]
    if shares.sum() == 0:
        raise DataError(f"the split {split!r} leaves nothing to any part: give at least one share above 0")
    train, valid, test = (shares / shares.sum()).tolist()
    return train, valid, test


def split_sequences(dataset: IndexedDataset, split: str, by: SplitBy = "range", seed: int = 0) -> SplitSequences:
    """Divide a dataset's sequences.

    Args:
        dataset: what to divide.
        split: shares of training, validation and test, such as "969,30,1".
        by: ``range`` or ``hash``.
        seed: of the hash; ``range`` has none.
    """
    return _SPLITTERS[by](dataset, parse_split(split), seed)


def _by_range(dataset: IndexedDataset, shares: tuple[float, float, float], seed: int) -> SplitSequences:
    # summed and rounded in Megatron's order, so that the bounds are its bounds
    bounds = [0.0, shares[0], shares[0] + shares[1], shares[0] + shares[1] + shares[2]]
    ends = [round(bound * float(len(dataset))) for bound in bounds]
    return SplitSequences(*(np.arange(first, last, dtype=np.int64) for first, last in pairwise(ends)))


def _by_hash(dataset: IndexedDataset, shares: tuple[float, float, float], seed: int) -> SplitSequences:
    documents = len(dataset.document_index) - 1
    draws = _uniform(np.arange(documents, dtype=np.uint64), seed)
    part_of_document = np.searchsorted(np.cumsum(shares[:2]), draws, side="right")
    part_of_sequence = np.repeat(part_of_document, np.diff(dataset.document_index))
    return SplitSequences(*(np.flatnonzero(part_of_sequence == part).astype(np.int64) for part in range(3)))


def _uniform(numbers: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """A fixed draw from [0, 1) for each number: SplitMix64 (Steele et al., 2014, OOPSLA), keyed by the seed."""
    with np.errstate(over="ignore"):
        offset = _mix(np.array([seed % 2**64], np.uint64))
        mixed = _mix((numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + offset)
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


_SPLITTERS: dict[str, Callable[[IndexedDataset, tuple[float, float, float], int], SplitSequences]] = {
    "range": _by_range,
    "hash": _by_hash,
}
