"""What a manifest says, against what the files hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.indexed_tables import IndexTables
from megadape.data.manifest import DatasetManifest, manifest_path
from megadape.data.reading.ledger import Source


def record_problems(manifest: DatasetManifest, prefix: Path, tables: IndexTables | None) -> Iterator[str]:
    """Everything that a manifest counts and its files, or its own sums, contradict.

    Args:
        manifest: of a dataset.
        prefix: of its files.
        tables: of its index; None where that cannot be read.
    """
    yield from _size_problems(manifest, prefix)
    yield from _source_problems(manifest, manifest_path(prefix))
    if tables is not None:
        yield from _table_problems(manifest, prefix, tables)


def _size_problems(manifest: DatasetManifest, prefix: Path) -> Iterator[str]:
    path = manifest_path(prefix)
    sizes = [(bin_path(prefix), manifest.bin_size), (idx_path(prefix), manifest.idx_size)]
    for file, size in sizes:
        if file.stat().st_size != size:
            yield f"{path} says that {file.name} has {size} bytes, but it has {file.stat().st_size}"


def _source_problems(manifest: DatasetManifest, path: Path) -> Iterator[str]:
    """Every record became a document, was passed over, or was bad; together those of the sources are the dataset's."""
    accounts: list[tuple[str, DatasetManifest | Source]] = [(path.name, manifest)]
    accounts += [(source.path, source) for source in manifest.sources]
    for name, one in accounts:
        became = one.documents + one.passed_over + one.bad
        if one.records != became:
            yield f"{path} counts {one.records} records in {name}, but tells what became of {became}"
    counted = all(source.records for source in manifest.sources if source.size)  # older manifests do not count
    documents = sum(source.documents for source in manifest.sources)
    # a part of a split has but a part of its sources' documents
    divided = any(operation.name == "split" for operation in manifest.operations)
    if counted and not divided and documents != manifest.documents:
        yield f"{path} says {manifest.documents} documents, but {documents} came out of its sources"


def _table_problems(manifest: DatasetManifest, prefix: Path, tables: IndexTables) -> Iterator[str]:
    path = manifest_path(prefix)
    if manifest.dtype != tables.dtype.name:
        yield f"{path} says that tokens are {manifest.dtype}, but {idx_path(prefix)} says {tables.dtype.name}"
    counts = {
        "documents": (manifest.documents, len(tables.documents) - 1),
        "tokens": (manifest.tokens, int(tables.sizes.sum(dtype="int64"))),
    }
    for what, (told, held) in counts.items():
        if told != held:
            yield f"{path} says {told} {what}, but {idx_path(prefix)} has {held}"
