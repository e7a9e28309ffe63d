"""What a dataset is, in words, and single documents of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadape.data.files import PathLike
from megadape.data.indexed import IndexedDataset, Tokens
from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.maintenance.gathering import document_lengths
from megadape.data.maintenance.stored import StoredDataset, find_dataset
from megadape.data.manifest import DatasetManifest, Operation, load_manifest, manifest_path
from megadape.errors import DataError

SOURCE_COLUMNS = ("source", "bytes", "sha256")


@dataclass(frozen=True)
class Inspection:
    """A dataset in words."""

    facts: tuple[tuple[str, str], ...]
    """What, and its value."""
    sources: tuple[tuple[str, ...], ...]
    """Rows of ``SOURCE_COLUMNS``, one a file that it was made from."""


@dataclass(frozen=True)
class DocumentView:
    """One document."""

    sequences: tuple[Tokens, ...]
    text: str | None
    """None when it was not asked for."""


def inspect_dataset(prefix: PathLike, *, multimodal: bool = False) -> Inspection:
    """What the files of a prefix hold; ``DataError`` when the pair is missing or damaged.

    A manifest that is damaged, or of other files, is told among the facts.
    """
    path = Path(prefix)
    pair = IndexedDataset(path, multimodal=multimodal)
    manifest, told = _manifest(path)
    facts = [*_pair_facts(pair), ("manifest", told)]
    if manifest is None:
        return Inspection(tuple(facts), ())
    rows = tuple((one.path, f"{one.size:,}", one.sha256[:12]) for one in manifest.sources)
    return Inspection((*facts, *_manifest_facts(manifest)), rows)


def view_document(prefix: PathLike, number: int, *, decode: bool = False) -> DocumentView:
    """One document of a dataset, decoded by the dataset's own tokenizer if asked for.

    Args:
        prefix: of its files.
        number: from 0; negative ones count from the end.
        decode: whether to give the text.

    Raises:
        DataError: there is no such document, or nothing says which tokenizer wrote it.
    """
    stored = find_dataset(prefix) if decode else StoredDataset(Path(prefix), None)
    pair = stored.open()
    documents = len(pair.document_index) - 1
    if not -documents <= number < documents:
        raise DataError(f"{prefix} has no document {number}: it has {documents:,}, numbered from 0")
    first, last = (int(bound) for bound in pair.document_index[number % documents :][:2])
    sequences = tuple(pair[first:last])
    if not decode:
        return DocumentView(sequences, None)
    ids = np.concatenate([np.empty(0, pair.dtype), *sequences])
    return DocumentView(sequences, stored.tokenizer().decode(ids))


def _manifest(prefix: Path) -> tuple[DatasetManifest | None, str]:
    """The manifest where there is a good one, and what to say of it."""
    path = manifest_path(prefix)
    if not path.exists():
        return None, "none: tokenizer, sources and options are unknown"
    try:
        return load_manifest(prefix), path.name
    except DataError as error:
        return None, str(error)


def _pair_facts(pair: IndexedDataset) -> Iterator[tuple[str, str]]:
    lengths = document_lengths(pair)
    yield "dataset", str(pair.prefix)
    for path in (bin_path(pair.prefix), idx_path(pair.prefix)):
        yield path.suffix.removeprefix("."), f"{path.stat().st_size:,} bytes"
    yield "token type", pair.dtype.name
    yield "sequences", f"{len(pair):,}" + (", each with a mode" if pair.multimodal else "")
    yield "documents", f"{len(lengths):,}, {np.count_nonzero(lengths == 0):,} of them without tokens"
    yield "tokens", f"{len(pair.tokens):,}"


def _manifest_facts(manifest: DatasetManifest) -> Iterator[tuple[str, str]]:
    tokenizer = manifest.tokenizer
    files = ", ".join(tokenizer.files.values())
    yield "tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens" + (f", in {files}" if files else "")
    yield "digest", tokenizer.digest[:12]
    options = ", ".join(f"{key} {value}" for key, value in tokenizer.options.items())
    if options:
        yield "options", options
    yield "end token", f"{tokenizer.eod}, {'after every document' if manifest.append_eod else 'not appended'}"
    per_token = f", {manifest.text_bytes / manifest.tokens:.2f} a token" if manifest.tokens else ""
    yield "text", f"{manifest.text_bytes:,} bytes{per_token}; {manifest.empty_documents:,} documents are empty texts"
    yield "json key", manifest.json_key
    if manifest.where:
        yield "where", "; ".join(f"{key} is {' or '.join(values)}" for key, values in manifest.where.items())
    if manifest.document_separator is not None:
        yield "separator", repr(manifest.document_separator)
    yield "sources", f"{len(manifest.sources):,} files, {sum(one.size for one in manifest.sources):,} bytes"
    if manifest.bad or manifest.passed_over:
        kept = f" (kept in {manifest.quarantine})" if manifest.quarantine else ""
        lost = f"{manifest.bad:,} bad{kept}, {manifest.passed_over:,} passed over"
        yield "records", f"{manifest.records:,}: {manifest.documents:,} documents, {lost}"
    if manifest.undecodable:
        yield "undecodable", ", ".join(manifest.undecodable)
    for operation in manifest.operations:
        yield operation.name, _words(operation)


def _words(operation: Operation) -> str:
    options = ", ".join(f"{key} {value}" for key, value in operation.options.items())
    inputs = "of " + ", ".join(one.name for one in operation.inputs)
    return f"{inputs}; {options}" if options else inputs
