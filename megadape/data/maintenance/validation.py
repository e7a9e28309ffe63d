"""Whether a dataset is what it says it is: every problem that it has, not only the first.

Without ``deep`` at most 256 MiB of the tokens are read, evenly spread, and no digest is taken; with it, everything is.
A few megabytes are in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TypeVar

from megadape.data.files import PathLike
from megadape.data.indexed import IndexedDataset, require_pair
from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.indexed_tables import MappedFile, find_problems, map_file, read_tables
from megadape.data.maintenance.contents import BLOCK, IdCheck, end_problems, read_blocks
from megadape.data.maintenance.metering import Meter, Tell
from megadape.data.maintenance.records import record_problems
from megadape.data.manifest import DatasetManifest, manifest_path, read_manifest, rebuild_tokenizer
from megadape.errors import DataError, MegadapeError

_BLOCKS_OF_A_SAMPLE = 64
_DOCUMENTS_OF_A_SAMPLE = 1 << 16

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What was found."""

    prefix: Path
    problems: tuple[str, ...]
    scope: str
    """What was looked at."""

    def require_sound(self) -> None:
        """``DataError`` that tells every problem."""
        if len(self.problems) == 1:
            raise DataError(self.problems[0])
        if self.problems:
            listed = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(self.problems, 1))
            raise DataError(f"{self.prefix} has {len(self.problems)} problems:{listed}")

    def __str__(self) -> str:
        return f"{self.prefix} is sound: {self.scope}"


def validate_dataset(
    prefix: PathLike, *, deep: bool = False, multimodal: bool = False, tell: Tell | None = None
) -> Verdict:
    """Look for everything that can be wrong with a dataset.

    Args:
        prefix: of its files.
        deep: read everything and compare digests.
        multimodal: the index has one more byte per sequence.
        tell: called with the bytes read and all bytes to read.

    Raises:
        DataError: a file of the pair is missing.
    """
    path = Path(prefix)
    require_pair(path)
    problems: list[str] = []
    manifest = _attempt(lambda: read_manifest(path), problems) if manifest_path(path).exists() else None
    pair = _open_pair(path, multimodal, manifest, problems)
    if manifest is not None:
        record = manifest.tokenizer
        _attempt(lambda: rebuild_tokenizer(record, path.parent), problems)
    problems += _content_problems(path, pair, manifest, deep, tell)
    return Verdict(path, tuple(problems), "" if pair is None else _scope(pair, manifest, deep))


def _attempt(action: Callable[[], T], problems: list[str]) -> T | None:
    """The result, or None and one more problem."""
    try:
        return action()
    except MegadapeError as error:
        problems.append(str(error))
        return None


def _open_pair(
    prefix: Path, multimodal: bool, manifest: DatasetManifest | None, problems: list[str]
) -> IndexedDataset | None:
    """The dataset if its index is sound; whatever is wrong with it, and with the manifest's counts, is a problem."""
    idx, bin_ = idx_path(prefix), bin_path(prefix)
    tables = _attempt(lambda: read_tables(idx, multimodal), problems)
    wrong = [] if tables is None else list(find_problems(tables, bin_.stat().st_size, idx, bin_))
    problems += wrong
    if manifest is not None:
        problems += record_problems(manifest, prefix, tables)
    return None if tables is None or wrong else IndexedDataset(prefix, multimodal=multimodal)


def _content_problems(
    prefix: Path, pair: IndexedDataset | None, manifest: DatasetManifest | None, deep: bool, tell: Tell | None
) -> Iterator[str]:
    data = map_file(bin_path(prefix))
    numbers = _blocks(data, deep) if deep or pair is not None else []
    vocab_size = None if manifest is None else manifest.tokenizer.vocab_size
    ids = None if pair is None else IdCheck(pair.dtype, vocab_size)
    digest = hashlib.sha256()
    for start, block in read_blocks(data, numbers, Meter(min(len(numbers) * BLOCK, len(data.data)), tell)):
        if ids is not None:
            ids.add(start, block)
        if deep:
            digest.update(block.data)
    if ids is not None:
        yield from ids.problems(bin_path(prefix))
    if pair is not None and manifest is not None and manifest.append_eod:
        yield from end_problems(pair, manifest.tokenizer.eod, None if deep else _DOCUMENTS_OF_A_SAMPLE)
    if deep and manifest is not None:
        yield from _digest_problems(prefix, manifest, digest.hexdigest())


def _blocks(data: MappedFile, deep: bool) -> list[int]:
    """The numbers of the blocks to read: all, or at most a sample evenly spread from the first to the last."""
    count = ceil(len(data.data) / BLOCK)
    if deep or count <= _BLOCKS_OF_A_SAMPLE:
        return list(range(count))
    return [number * (count - 1) // (_BLOCKS_OF_A_SAMPLE - 1) for number in range(_BLOCKS_OF_A_SAMPLE)]


def _digest_problems(prefix: Path, manifest: DatasetManifest, bin_sha256: str) -> Iterator[str]:
    with idx_path(prefix).open("rb") as file:
        idx_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    files = (
        (bin_path(prefix), manifest.bin_sha256, bin_sha256),
        (idx_path(prefix), manifest.idx_sha256, idx_sha256),
    )
    for path, told, held in files:
        if told != held:
            yield f"{path} is not what it was when {manifest_path(prefix).name} was written: its digest differs"


def _scope(pair: IndexedDataset, manifest: DatasetManifest | None, deep: bool) -> str:
    documents, tokens = len(pair.document_index) - 1, len(pair.tokens)
    parts = [f"{documents:,} documents, {tokens:,} tokens"]
    sampled = not deep and len(pair.tokens) * pair.dtype.itemsize > _BLOCKS_OF_A_SAMPLE * BLOCK
    parts.append("a sample of the tokens was read, --deep reads all" if sampled else "all tokens were read")
    if manifest is None:
        parts.append("there is no manifest to tell its vocabulary, end token, counts and digests")
    else:
        parts.append("as its manifest says" + (", digests and all" if deep else "; --deep compares digests too"))
    return "; ".join(parts)
