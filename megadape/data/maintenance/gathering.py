"""Copying whole documents from one dataset into another, in any order, in bounded memory.

Of the tokens only a few megabytes are in memory at a time; of every document its place in the order and its tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from megadape.data.files import reporting
from megadape.data.indexed import IndexedDataset, Tokens
from megadape.data.indexed_format import bin_path
from megadape.data.indexed_writer import IndexedDatasetWriter
from megadape.data.maintenance.metering import Meter

Ids = npt.NDArray[np.int64]

Scalar = TypeVar("Scalar", bound=np.integer)

DOCUMENTS_AT_ONCE = 1 << 16
_TOKENS_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class Block:
    """Some documents of a dataset, one after another."""

    tokens: Tokens
    """[sum of sizes]."""
    sizes: npt.NDArray[np.int32]
    """[sequences], tokens of each."""
    sequences: Ids
    """[documents], sequences of each."""

    @property
    def lengths(self) -> Ids:
        """[documents], tokens of each."""
        bounds = np.concatenate(([0], np.cumsum(self.sizes, dtype=np.int64)))
        lasts = np.cumsum(self.sequences)
        return bounds[lasts] - bounds[lasts - self.sequences]


def copy_documents(
    source: IndexedDataset,
    documents: Ids,
    writer: IndexedDatasetWriter,
    meter: Meter,
    see: Callable[[Block], None] | None = None,
) -> None:
    """Add documents of a dataset, by their numbers and in the order given, to another.

    Args:
        source: where they are.
        documents: [n], their numbers.
        writer: of the other dataset.
        meter: told of every block.
        see: called with every block.
    """
    for block in gather(source, documents):
        writer.add_sequences(block.tokens, block.sizes, block.sequences)
        if see is not None:
            see(block)
        meter.add(len(block.tokens))


def gather(source: IndexedDataset, documents: Ids) -> Iterator[Block]:
    """Documents in the order given, half a million tokens at a time; only a document longer than that comes whole, as a
    view of the file and not a copy."""
    index = source.document_index
    with source.open_bin() as file:
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            numbers = documents[start : start + DOCUMENTS_AT_ONCE]
            firsts, lasts = index[numbers], index[numbers + 1]
            begins, ends = source.starts(firsts), source.starts(lasts)
            for a, b in pairwise(_cuts(ends - begins)):
                tokens = _read_tokens(source, file, begins[a:b], ends[a:b])
                yield Block(tokens, _collect(source.sizes, firsts[a:b], lasts[a:b]), lasts[a:b] - firsts[a:b])
                source.release()


def document_lengths(source: IndexedDataset) -> Ids:
    """[documents], the tokens of each."""
    lengths = np.empty(len(source.document_index) - 1, np.int64)
    for start in range(0, len(lengths), DOCUMENTS_AT_ONCE):
        begins = source.starts(source.document_index[start : start + DOCUMENTS_AT_ONCE + 1])
        lengths[start : start + DOCUMENTS_AT_ONCE] = np.diff(begins)
    return lengths


def _cuts(lengths: Ids) -> list[int]:
    """Bounds of pieces of fewer than twice ``_TOKENS_AT_ONCE`` tokens; a document of more is a piece of its own."""
    last = np.cumsum(lengths)
    first = last - lengths
    turns = [np.flatnonzero(np.diff(ends // _TOKENS_AT_ONCE)) + 1 for ends in (first, last)]
    return [0, *np.union1d(*turns).tolist(), len(lengths)]


def _read_tokens(source: IndexedDataset, file: FileIO, begins: Ids, ends: Ids) -> Tokens:
    """tokens[begins[0]:ends[0]], tokens[begins[1]:ends[1]], ... concatenated."""
    lengths = ends - begins
    if len(lengths) == 1 and lengths[0] > _TOKENS_AT_ONCE:
        return source.tokens[begins[0] : ends[0]]
    # read and not mapped: around every byte touched the system maps up to a hundred kilobytes
    tokens = np.empty(lengths.sum(), source.dtype)
    content = tokens.view(np.uint8).data
    first = np.flatnonzero(np.concatenate(([True], begins[1:] != ends[:-1])))  # of every run of neighbours
    places = (np.cumsum(lengths) - lengths)[first] * source.dtype.itemsize
    with reporting("read", bin_path(source.prefix)):
        for offset, place, end in zip(
            (begins[first] * source.dtype.itemsize).tolist(),
            places.tolist(),
            [*places[1:].tolist(), len(content)],
            strict=True,
        ):
            _read_into(file, content[place:end], offset)
    return tokens


def _read_into(file: FileIO, content: memoryview, offset: int) -> None:
    while len(content):
        count = os.preadv(file.fileno(), [content], offset)
        if not count:
            raise OSError("it became shorter while it was read")
        content, offset = content[count:], offset + count


def _collect(values: npt.NDArray[Scalar], begins: Ids, ends: Ids) -> npt.NDArray[Scalar]:
    """values[begins[0]:ends[0]], values[begins[1]:ends[1]], ... concatenated; a view where they already are."""
    if (begins[1:] == ends[:-1]).all():
        return values[begins[0] : ends[-1]]
    lengths = ends - begins
    places = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    places += np.arange(len(places))
    return values[places]
