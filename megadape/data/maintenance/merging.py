"""One dataset from several, one after another: every document keeps its sequences and its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from megadape.data.files import PathLike
from megadape.data.indexed_writer import IndexedDatasetWriter
from megadape.data.maintenance.deriving import DerivedDataset, complete, describe, protect
from megadape.data.maintenance.gathering import copy_documents
from megadape.data.maintenance.metering import Meter, Tell
from megadape.data.maintenance.stored import StoredDataset, find_dataset
from megadape.data.manifest import Operation, TokenizerManifest
from megadape.errors import DataError

_SUMMED = ("empty_documents", "text_bytes", "records", "bad", "passed_over")
"""Fields of which the merged manifest has the sum."""

_JOINED = ("sources", "undecodable")
"""Fields that the merged manifest has one after another."""

_KEPT = ("json_key", "where", "document_separator", "on_bad_line")
"""Fields that the merged manifest has where they agree; where not, those of each dataset are options of the merge, and
the manifest has the first."""


@dataclass(frozen=True)
class _Part:
    """One dataset of those to be merged."""

    stored: StoredDataset
    dtype: np.dtype[np.integer]
    tokens: int


def merge_datasets(
    prefixes: Sequence[PathLike],
    output_prefix: PathLike,
    *,
    widen: bool = False,
    manifests: bool = True,
    tell: Tell | None = None,
) -> DerivedDataset:
    """Write the documents of several datasets into one, in the order given.

    Args:
        prefixes: of the datasets.
        output_prefix: of the new one.
        widen: allow different token types; the new dataset has the smallest that holds all.
        manifests: read and write them; without, nothing says whether the tokenizers agree.
        tell: called with the tokens done and all tokens.

    Raises:
        DataError: a dataset is missing or damaged, was made by another tokenizer or in another way, or would be
            written over.
    """
    if not prefixes:
        raise DataError("there is nothing to merge: give the prefix of at least one dataset")
    parts = [_look_at(find_dataset(prefix, manifest=manifests)) for prefix in prefixes]
    first, prefix = parts[0].stored, Path(output_prefix)
    for part in parts[1:]:
        _require_alike(parts[0], part, widen)
    if first.manifest is not None:
        first.tokenizer()
    protect(prefix, chain.from_iterable(part.stored.files for part in parts), first.manifest)
    dtype = np.result_type(*(part.dtype for part in parts))
    meter = Meter(sum(part.tokens for part in parts), tell)
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for part in parts:
            pair = part.stored.open()
            copy_documents(pair, np.arange(len(pair.document_index) - 1), writer, meter)
        return complete(writer, first, *_merged_record([part.stored for part in parts]))


def _look_at(stored: StoredDataset) -> _Part:
    pair = stored.open()
    return _Part(stored, pair.dtype, len(pair.tokens))


def _require_alike(first: _Part, other: _Part, widen: bool) -> None:
    """Refuse to mix ids of two meanings."""
    here, there = first.stored, other.stored
    if first.dtype != other.dtype and not widen:
        raise DataError(
            f"{there.prefix} holds {other.dtype.name} tokens, but {here.prefix} holds {first.dtype.name}: "
            "ask for widening, or preprocess one of them again"
        )
    if here.manifest is None and there.manifest is None:
        return
    if here.manifest is None or there.manifest is None:
        known, unknown = (here, there) if there.manifest is None else (there, here)
        raise DataError(
            f"{unknown.prefix} has no manifest, so nothing says that its tokenizer is that of {known.prefix}: "
            "merge without manifests if you know that it is"
        )
    if _meaning(here.manifest.tokenizer) != _meaning(there.manifest.tokenizer):
        raise DataError(
            f"{there.prefix} was made by another tokenizer ({_name(there.manifest.tokenizer)}) than {here.prefix} "
            f"({_name(here.manifest.tokenizer)}): equal ids would mean different text; preprocess one of them again"
        )
    if here.manifest.append_eod != there.manifest.append_eod:
        ends, open_ = (here, there) if here.manifest.append_eod else (there, here)
        raise DataError(
            f"the documents of {ends.prefix} end with an end token and those of {open_.prefix} do not: "
            "preprocess one of them again"
        )


def _meaning(record: TokenizerManifest) -> tuple[object, ...]:
    """What must agree for equal ids to mean equal text."""
    return record.digest, record.vocab_size, record.eod


def _name(record: TokenizerManifest) -> str:
    return f"{record.kind}, {record.vocab_size:,} tokens, digest {record.digest[:12]}"


def _merged_record(parts: Sequence[StoredDataset]) -> tuple[Operation | None, dict[str, object]]:
    """What was done, and the fields of the manifest that all datasets decide together."""
    manifests = [part.manifest for part in parts if part.manifest is not None]
    if not manifests:
        return None, {}
    values = {field: [getattr(one, field) for one in manifests] for field in _KEPT}
    different = {field: each for field, each in values.items() if any(value != each[0] for value in each)}
    operation = Operation(name="merge", options=different, inputs=tuple(describe(part) for part in parts))
    return operation, {
        **{field: sum(getattr(one, field) for one in manifests) for field in _SUMMED},
        **{field: tuple(chain.from_iterable(getattr(one, field) for one in manifests)) for field in _JOINED},
        "operations": (*chain.from_iterable(one.operations for one in manifests), operation),
    }
