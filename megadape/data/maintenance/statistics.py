"""How long the documents of a dataset are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt

from megadape.data.files import PathLike
from megadape.data.maintenance.gathering import document_lengths
from megadape.data.maintenance.stored import find_dataset
from megadape.errors import DataError

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
NARROW_BINS = 40  # at most, where lengths span less than two octaves
SMALLEST_SHARE = 64  # no bin is narrower than this part of its length: it would not be seen


@dataclass(frozen=True)
class LengthHistogram:
    """How many documents, and tokens in them, of which lengths; documents without tokens are in no bin."""

    edges: npt.NDArray[np.int64]
    """[bins + 1], whole numbers of tokens; bin i holds lengths from edges[i] to edges[i + 1] - 1."""
    documents: npt.NDArray[np.int64]
    """[bins]."""
    tokens: npt.NDArray[np.int64]
    """[bins], in those documents."""


@dataclass(frozen=True)
class LengthStatistics:
    """Lengths of all documents, in tokens; a document without tokens has length 0."""

    documents: int
    empty: int
    tokens: int
    mean: float
    percentiles: dict[int, float]
    """1, 5, 25, 50 (the median), ... -> length."""
    longest: int
    bytes_per_token: float | None
    """UTF-8 bytes of text; None without a manifest."""
    histogram: LengthHistogram

    @property
    def median(self) -> float:
        """The length that half of the documents do not exceed."""
        return self.percentiles[50]

    def rows(self) -> Iterator[tuple[str, str]]:
        """What, and its value, for a table."""
        yield "documents", f"{self.documents:,}"
        yield "without tokens", f"{self.empty:,}"
        yield "tokens", f"{self.tokens:,}"
        yield "mean length", f"{self.mean:,.1f}"
        for percent, length in self.percentiles.items():
            name = "median" if percent == 50 else f"{percent} % are at most"
            yield name, f"{length:,.0f}" if length.is_integer() else f"{length:,.1f}"
        yield "longest", f"{self.longest:,}"
        yield "bytes of text a token", "unknown" if self.bytes_per_token is None else f"{self.bytes_per_token:.3f}"


def measure_lengths(prefix: PathLike) -> LengthStatistics:
    """Measure the documents of a dataset.

    Raises:
        DataError: it is missing or damaged, or has no documents.
    """
    stored = find_dataset(prefix)
    lengths = document_lengths(stored.open())
    if not len(lengths):
        raise DataError(f"{prefix} has no documents: there is nothing to measure")
    lengths.sort()  # in place: of 31 million documents every copy is a quarter of a gigabyte
    tokens = int(lengths.sum())
    known = stored.manifest is not None and tokens > 0
    percentiles = np.percentile(lengths, PERCENTILES, overwrite_input=True).tolist()
    return LengthStatistics(
        documents=len(lengths),
        empty=int(np.searchsorted(lengths, 1)),
        tokens=tokens,
        mean=tokens / len(lengths),
        percentiles=dict(zip(PERCENTILES, percentiles, strict=True)),
        longest=int(lengths[-1]),
        bytes_per_token=stored.manifest.text_bytes / tokens if stored.manifest is not None and known else None,
        histogram=histogram_of(lengths),
    )


def histogram_of(lengths: npt.NDArray[np.int64]) -> LengthHistogram:
    """Bins from the shortest to the longest length.

    Args:
        lengths: [documents], increasing; those of length 0 are in no bin.
    """
    filled = lengths[np.searchsorted(lengths, 1) :]
    if not len(filled):
        return LengthHistogram(np.array([1, 2]), np.zeros(1, np.int64), np.zeros(1, np.int64))
    edges = _edges(int(filled[0]), int(filled[-1]))
    bounds = np.searchsorted(filled, edges)
    tokens = [filled[a:b].sum() for a, b in pairwise(bounds)]
    return LengthHistogram(edges, np.diff(bounds), np.array(tokens, np.int64))


def _edges(shortest: int, longest: int) -> npt.NDArray[np.int64]:
    """Bounds of bins: a quarter of an octave wide, or all alike where the lengths span less than two octaves."""
    if longest < 4 * shortest:
        width = max(1, ceil((longest - shortest + 1) / NARROW_BINS), shortest // SMALLEST_SHARE)
        return np.arange(shortest, longest + width + 1, width)
    edges = [shortest]
    while edges[-1] <= longest:
        edges.append(edges[-1] + max(1, int(edges[-1] * (2**0.25 - 1))))
    return np.array(edges)
