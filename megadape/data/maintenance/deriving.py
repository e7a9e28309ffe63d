"""Datasets made from datasets: what may be written over, and the manifest that tells where they come from.

Pair, copies of the tokenizer's files and manifest appear together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megadape.data.files import reporting, with_ending
from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.indexed_writer import IndexedDatasetWriter, WrittenPair
from megadape.data.maintenance.stored import StoredDataset
from megadape.data.manifest import (
    DatasetManifest,
    Operation,
    OperationInput,
    TokenizerManifest,
    encode_manifest,
    is_manifest,
    manifest_path,
)
from megadape.data.tokenizers import KINDS
from megadape.errors import DataError


@dataclass(frozen=True)
class DerivedDataset:
    """A dataset that was made from others."""

    prefix: Path
    pair: WrittenPair
    manifest: DatasetManifest | None
    """None when it was made from datasets without one."""

    def __str__(self) -> str:
        told = "" if self.manifest else "; no manifest: the tokenizer is unknown"
        return f"{self.prefix}: {self.pair.documents:,} documents, {self.pair.tokens:,} tokens{told}"


def protect(prefix: Path, inputs: Iterable[Path], manifest: DatasetManifest | None) -> None:
    """Refuse to write over what is read, over a file that is no manifest, or beside a manifest of something else.

    Args:
        prefix: of the dataset to be written.
        inputs: all files that are read.
        manifest: of what is read, if it has one.
    """
    copies = tokenizer_files(manifest.tokenizer, prefix).values() if manifest else ()
    record = manifest_path(prefix)
    read = {path.resolve() for path in inputs}
    for output in (bin_path(prefix), idx_path(prefix), record, *copies):
        if output.resolve() in read:
            raise DataError(f"{output} is read and would be written over: choose another output prefix")
    if record.exists() and not (manifest and is_manifest(record)):
        other = "describes another dataset" if is_manifest(record) else "is not the manifest of a dataset"
        raise DataError(f"{record} is there and {other}: remove it or choose another output prefix")


def tokenizer_files(record: TokenizerManifest, prefix: Path) -> dict[str, Path]:
    """Field of the tokenizer's settings -> where its copy stands beside the dataset of that prefix."""
    endings = KINDS[record.kind].COPIES
    return {field: with_ending(prefix, f".{endings[field]}") for field in record.files}


def describe(source: StoredDataset) -> OperationInput:
    """A dataset with a manifest, as what another was made from."""
    assert source.manifest is not None
    return OperationInput(
        name=source.prefix.name, bin_sha256=source.manifest.bin_sha256, idx_sha256=source.manifest.idx_sha256
    )


def complete(
    writer: IndexedDatasetWriter,
    source: StoredDataset,
    operation: Operation | None,
    changes: Mapping[str, object] | None = None,
) -> DerivedDataset:
    """Seal a pair and stage what belongs to it: the tokenizer's files of a source, and its manifest with changes.

    Args:
        writer: of the pair.
        source: a dataset with the same tokenizer; without a manifest, neither has the new one.
        operation: what was done; None without a manifest.
        changes: fields of the manifest that differ from the source's.
    """
    pair = writer.seal()
    if source.manifest is None or operation is None:
        return DerivedDataset(writer.prefix, pair, None)
    old = source.manifest.tokenizer
    files = tokenizer_files(old, writer.prefix)
    for field, path in files.items():
        copy = source.prefix.parent / old.files[field]
        with reporting("read", copy):
            content = copy.read_bytes()
        writer.stage(path, content)
    names = {field: path.name for field, path in files.items()}
    own: dict[str, object] = {
        "tokenizer": old.model_copy(update={"files": names}),
        "tokens": pair.tokens,
        "documents": pair.documents,
        "dtype": writer.dtype.name,
        "operations": (*source.manifest.operations, operation),
        "quarantine": None,  # bad records stay beside the dataset in whose making they were met
        "bin_size": pair.bin_size,
        "bin_sha256": pair.bin_sha256,
        "idx_size": pair.idx_size,
        "idx_sha256": pair.idx_sha256,
    }
    manifest = source.manifest.model_copy(update=own | dict(changes or {}))
    writer.stage(manifest_path(writer.prefix), encode_manifest(manifest))
    return DerivedDataset(writer.prefix, pair, manifest)
