"""A dataset as a maintenance command meets it: its pair of files, and its manifest where it has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megadape.data.files import PathLike
from megadape.data.indexed import IndexedDataset, require_pair
from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.manifest import DatasetManifest, load_manifest, manifest_path, rebuild_tokenizer
from megadape.data.tokenizers import Tokenizer
from megadape.errors import DataError


@dataclass(frozen=True)
class StoredDataset:
    """A dataset, whoever made it; opened only while it is read, since an open one holds two files."""

    prefix: Path
    manifest: DatasetManifest | None
    """None for a dataset of another program."""

    @property
    def files(self) -> list[Path]:
        """Every file that belongs to it."""
        pair = [bin_path(self.prefix), idx_path(self.prefix)]
        if self.manifest is None:
            return pair
        copies = (self.prefix.parent / name for name in self.manifest.tokenizer.files.values())
        return [*pair, manifest_path(self.prefix), *copies]

    def open(self) -> IndexedDataset:
        """Its pair, checked."""
        return IndexedDataset(self.prefix)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote it, from its own folder; ``DataError`` where nothing says which that is."""
        if self.manifest is None:
            raise DataError(
                f"nothing says which tokenizer wrote {self.prefix}: it has no manifest ({manifest_path(self.prefix)})"
            )
        return rebuild_tokenizer(self.manifest.tokenizer, self.prefix.parent)


def find_dataset(prefix: PathLike, *, manifest: bool = True) -> StoredDataset:
    """The dataset of a prefix; ``DataError`` when a file is missing, or its manifest describes other files.

    Args:
        prefix: of its files.
        manifest: whether to read ``PREFIX.json`` where it is there.
    """
    path = Path(prefix)
    require_pair(path)
    return StoredDataset(path, load_manifest(path) if manifest and manifest_path(path).exists() else None)
