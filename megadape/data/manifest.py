"""What a preprocessed dataset is made of: ``PREFIX.json``, written last, beside the pair.

The tokenizer's files are copied beside the dataset, so that the dataset alone is enough to rebuild the tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from megadape.data.files import PathLike, reporting, with_ending
from megadape.data.indexed_format import bin_path, idx_path
from megadape.data.reading.ledger import Source
from megadape.data.tokenizers.base import Tokenizer, TokenizerSettingsBase
from megadape.data.tokenizers.registry import tokenizer_settings
from megadape.errors import DataError, TokenizerError
from megadape.settings import Settings

FORMAT = "megadape-dataset"


class TokenizerManifest(Settings):
    """The tokenizer that wrote a dataset."""

    kind: str
    digest: str
    vocab_size: int
    eod: int
    files: dict[str, str] = Field(default_factory=dict)
    """Field of the settings -> name of the copy in the dataset's folder."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The other settings."""


class OperationInput(Settings):
    """A dataset that another was made from."""

    name: str
    """Last part of its prefix."""
    bin_sha256: str
    idx_sha256: str


class Operation(Settings):
    """What was done with datasets after preprocessing."""

    name: Literal["merge", "split", "shuffle"]
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: tuple[OperationInput, ...]


class DatasetManifest(Settings):
    """Everything that is known of a dataset; equal inputs and options give equal manifests."""

    format: Literal["megadape-dataset"] = "megadape-dataset"
    version: Literal[1] = 1
    tokenizer: TokenizerManifest
    documents: int
    empty_documents: int
    """Documents whose text is empty."""
    tokens: int
    text_bytes: int
    """UTF-8 bytes of all texts."""
    dtype: str
    append_eod: bool
    json_key: str
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Conditions: records without one of the values under every key were passed over."""
    document_separator: str | None = None
    """Line between the documents of plain text files; None when each is one document."""
    max_line_bytes: int | None = None
    """Longer lines, and longer documents of plain text, are bad."""
    records: int = Field(default_factory=lambda known: known["documents"])
    """What was found in the sources: documents + bad + passed_over, of all of them and of each."""
    bad: int = 0
    """Records that give no document (see quarantine)."""
    passed_over: int = 0
    """Records that the conditions leave out."""
    on_bad_line: Literal["error", "skip", "quarantine"] = "error"
    """What became of bad records: none was met, they were counted, or counted and kept."""
    quarantine: str | None = None
    """Name of the file beside the dataset that keeps the bad records."""
    sources: tuple[Source, ...]
    undecodable: tuple[str, ...] = ()
    """Files of plain text that are bad because they are not UTF-8."""
    operations: tuple[Operation, ...] = ()
    """What was done after preprocessing, in order."""
    bin_size: int
    bin_sha256: str
    idx_size: int
    idx_sha256: str

    def summary(self) -> str:
        """What the dataset holds, in a few words."""
        return (
            f"{self.documents:,} documents, {self.tokens:,} tokens of {self.dtype}, "
            f"{self.text_bytes:,} bytes of text, {self.empty_documents:,} empty documents"
        )

    @model_validator(mode="after")
    def _nothing_is_lost(self) -> Self:
        """As preprocessing leaves a dataset, every record of every source is accounted for."""
        if self.operations:
            return self
        counted = [source for source in self.sources if source.records]
        sums: list[DatasetManifest | Source] = [self, *counted]
        if any(one.records != one.documents + one.bad + one.passed_over for one in sums):
            raise ValueError("records must be documents + bad + passed_over")
        for name in ("records", "documents", "bad", "passed_over"):
            if counted and sum(getattr(source, name) for source in self.sources) != getattr(self, name):
                raise ValueError(f"{name} must be the sum of the sources' {name}")
        if not 0 <= self.empty_documents <= self.documents:
            raise ValueError("empty_documents are some of the documents")
        return self


def manifest_path(prefix: PathLike) -> Path:
    """``PREFIX.json``."""
    return with_ending(prefix, ".json")


def describe_tokenizer(tokenizer: Tokenizer, settings: TokenizerSettingsBase, prefix: PathLike) -> TokenizerManifest:
    """The record of a tokenizer whose files are copied to ``tokenizer_copies``."""
    return TokenizerManifest(
        kind=settings.kind,
        digest=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        eod=tokenizer.eod,
        files={field: path.name for field, path in tokenizer_copies(settings, prefix).items()},
        options=settings.model_dump(exclude={"kind", *settings.COPIES, *settings.IMMATERIAL}),
    )


def tokenizer_copies(settings: TokenizerSettingsBase, prefix: PathLike) -> dict[str, Path]:
    """Field of the settings -> path of the copy beside the dataset."""
    return {field: with_ending(prefix, f".{ending}") for field, ending in settings.COPIES.items()}


def rebuild_tokenizer(record: TokenizerManifest, folder: Path) -> Tokenizer:
    """The tokenizer of a manifest, from the copies of its files in ``folder``; ``TokenizerError`` when they changed."""
    for name in record.files.values():
        if Path(name).name != name or name in ("", ".", ".."):
            raise TokenizerError(
                f"the manifest names the tokenizer file {name!r}, which is not a plain name in {folder}"
            )
    files = {field: folder / name for field, name in record.files.items()}
    tokenizer = tokenizer_settings(record.kind, **record.options, **files).build()
    if tokenizer.digest != record.digest:
        names = ", ".join(record.files.values()) or record.kind
        raise TokenizerError(
            f"the tokenizer in {folder} ({names}) is not the one that wrote the dataset: restore it or preprocess again"
        )
    return tokenizer


def read_manifest(prefix: PathLike) -> DatasetManifest:
    """What ``PREFIX.json`` says, be it true or not; ``DataError`` when it is missing or malformed."""
    path = manifest_path(prefix)
    with reporting("read", path):
        content = path.read_bytes()
    try:
        return DatasetManifest.model_validate(json.loads(content))
    except (ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise DataError(f"{path} is not the manifest of a dataset ({reason}): preprocess the corpus again") from error


def load_manifest(prefix: PathLike, *, verify: bool = False) -> DatasetManifest:
    """The manifest of a dataset; ``DataError`` when it is missing, malformed or belongs to other files.

    Sizes of the two files are always compared, their digests when ``verify`` is set.
    """
    path, manifest = manifest_path(prefix), read_manifest(prefix)
    files = (
        (bin_path(prefix), manifest.bin_size, manifest.bin_sha256),
        (idx_path(prefix), manifest.idx_size, manifest.idx_sha256),
    )
    for file, size, digest in files:
        with reporting("read", file):
            same = file.stat().st_size == size and (not verify or _digest(file) == digest)
        if not same:
            raise DataError(f"{path} does not describe {file.name} beside it: preprocess the corpus again")
    return manifest


def load_tokenizer(prefix: PathLike) -> Tokenizer:
    """The tokenizer that wrote a dataset, from the dataset's own folder."""
    return rebuild_tokenizer(load_manifest(prefix).tokenizer, Path(prefix).parent)


def is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of a dataset (and may be replaced by another)."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def encode_manifest(manifest: DatasetManifest) -> bytes:
    """The bytes of ``PREFIX.json``."""
    return (json.dumps(manifest.model_dump(), indent=2) + "\n").encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
