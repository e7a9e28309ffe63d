"""Datasets of their own for training, validation and test: whole documents, dealt as ``splits`` deals sequences."""

from __future__ import annotations

from contextlib import ExitStack
from typing import get_args

import numpy as np
import numpy.typing as npt

from megadape.data.files import PathLike, StagedFiles, with_ending
from megadape.data.indexed import IndexedDataset
from megadape.data.indexed_writer import IndexedDatasetWriter
from megadape.data.maintenance.deriving import DerivedDataset, complete, describe, protect
from megadape.data.maintenance.gathering import Block, copy_documents
from megadape.data.maintenance.metering import Meter, Tell
from megadape.data.maintenance.stored import StoredDataset, find_dataset
from megadape.data.manifest import Operation
from megadape.data.splits import SplitBy, SplitSequences, split_sequences
from megadape.data.tokenizers import Tokenizer
from megadape.errors import DataError

_COUNTED_AT_ONCE = 1 << 20


def split_dataset(
    prefix: PathLike,
    shares: str,
    *,
    by: str = "range",
    seed: int = 0,
    output_prefix: PathLike | None = None,
    tell: Tell | None = None,
) -> list[DerivedDataset]:
    """Write ``PREFIX_train``, ``PREFIX_valid`` and ``PREFIX_test``, all three whole or not at all.

    A document goes where ``split_sequences`` puts its first sequence; one without sequences goes with the next that has
    some, or with the last. A part without a share is written too, empty: no older one stays beside the others.

    Args:
        prefix: of the dataset.
        shares: of training, validation and test, such as "969,30,1".
        by: ``range`` or ``hash``.
        seed: of the hash.
        output_prefix: what the new names begin with; the dataset's own prefix when None.
        tell: called with the tokens done and all tokens.

    Raises:
        DataError: the dataset is missing, damaged or empty, the shares are malformed, or a file would be lost.
    """
    rule = _known(by)
    source = find_dataset(prefix)
    tokenizer = source.tokenizer() if source.manifest else None  # before anything is written
    names = [with_ending(output_prefix or prefix, f"_{part}") for part in SplitSequences._fields]
    for name in names:
        protect(name, source.files, source.manifest)
    pair = source.open()
    parts = document_parts(pair, split_sequences(pair, shares, rule, seed))
    options = {"shares": shares, "by": by, **({"seed": seed} if by == "hash" else {})}
    meter = Meter(len(pair.tokens), tell)
    with ExitStack() as stack:
        staged = stack.enter_context(StagedFiles())
        derived = []
        for number, name in enumerate(names):
            writer = IndexedDatasetWriter(name, pair.dtype, staged)
            stack.callback(writer.discard)
            count = _TextCount(source, tokenizer)
            copy_documents(pair, np.flatnonzero(parts == number), writer, meter, count.add)
            part = {"part": SplitSequences._fields[number]}
            derived.append(complete(writer, source, _operation(source, options | part), count.fields()))
        staged.commit()
    return derived


def document_parts(pair: IndexedDataset, split: SplitSequences) -> npt.NDArray[np.int8]:
    """[documents], which part each belongs to: 0 training, 1 validation, 2 test."""
    if not len(pair):
        raise DataError(f"{pair.prefix} is empty: there is nothing to split")
    part_of_sequence = np.empty(len(pair), np.int8)
    for number, sequences in enumerate(split):
        part_of_sequence[sequences] = number
    # the first sequence of an empty document is that of the next one
    return part_of_sequence[np.minimum(pair.document_index[:-1], len(pair) - 1)]


def _known(by: str) -> SplitBy:
    choices: tuple[SplitBy, ...] = get_args(SplitBy)
    for choice in choices:
        if by == choice:
            return choice
    raise DataError(f"a dataset cannot be split by {by!r}: choose one of {', '.join(choices)}")


def _operation(source: StoredDataset, options: dict[str, object]) -> Operation | None:
    if source.manifest is None:
        return None
    return Operation(name="split", options=options, inputs=(describe(source),))


class _TextCount:
    """What of the source's texts is in a part, counted by its tokens: nothing else says it.

    Args:
        source: what is split.
        tokenizer: of the source; None where it has no manifest.
    """

    def __init__(self, source: StoredDataset, tokenizer: Tokenizer | None) -> None:
        self._prefix = source.prefix
        self._bytes = None if tokenizer is None else tokenizer.token_bytes()
        self._ends = 1 if source.manifest is not None and source.manifest.append_eod else 0
        self._documents = 0
        self._text_bytes = 0
        self._empty_documents = 0

    def add(self, block: Block) -> None:
        """Count a block; ``DataError`` for an id that the tokenizer has not."""
        if self._bytes is None:
            return
        self._documents += len(block.sequences)
        self._empty_documents += int(np.count_nonzero(block.lengths <= self._ends))
        for start in range(0, len(block.tokens), _COUNTED_AT_ONCE):
            tokens = block.tokens[start : start + _COUNTED_AT_ONCE]
            if tokens.min() < 0 or tokens.max() >= len(self._bytes):
                wrong = tokens[(tokens < 0) | (tokens >= len(self._bytes))][0]
                raise DataError(
                    f"{self._prefix} holds the token {wrong}, which its tokenizer of {len(self._bytes)} has not: "
                    "it is damaged"
                )
            self._text_bytes += int(self._bytes[tokens].sum())

    def fields(self) -> dict[str, object]:
        """Of the part's manifest: nothing was bad or passed over in making it."""
        return {
            "text_bytes": self._text_bytes,
            "empty_documents": self._empty_documents,
            "records": self._documents,
            "bad": 0,
            "passed_over": 0,
        }
