"""From text files to an indexed dataset.

One process reads the documents in their stated order and deals them out in batches; workers turn batches into token
ids; the results are written in order. The bytes are the same for any number of workers. Everything is written under
temporary names and renamed together at the end: after an error, Ctrl-C or the death of a worker nothing is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from megadape.data.files import PathLike, reporting
from megadape.data.indexed_format import best_dtype, bin_path, idx_path
from megadape.data.indexed_writer import IndexedDatasetWriter, WrittenPair
from megadape.data.manifest import (
    DatasetManifest,
    describe_tokenizer,
    encode_manifest,
    is_manifest,
    manifest_path,
    tokenizer_copies,
)
from megadape.data.readers import CorpusReader, Document
from megadape.data.tokenizers import Tokenizer, TokenizerSettings, TokenizerSettingsBase, tokenizer_settings
from megadape.data.workers import OrderedWorkers
from megadape.errors import DataError, TokenizerError
from megadape.settings import Settings

_BATCH_CHARACTERS = 1 << 19
_BATCH_DOCUMENTS = 2048


class PreprocessSettings(Settings):
    """What to preprocess, with which tokenizer, into which files."""

    inputs: tuple[str | Path, ...] = Field(min_length=1)
    """Files, folders and globs."""

    prefix: Path
    """Path of the dataset without its endings."""

    tokenizer: TokenizerSettings
    """Which tokenizer."""

    json_key: str = "text"
    """Key of the text in JSON objects."""

    append_eod: bool = False
    """Whether every document ends with the end-of-document token."""

    workers: int = Field(default=1, ge=1)
    """Processes that tokenize; the result is the same for any number."""

    text_suffixes: tuple[str, ...] = ()
    """Further file endings, such as .py, that are read as plain text."""

    skip_undecodable: bool = False
    """Pass over plain text files that are not UTF-8 instead of failing."""


@dataclass(frozen=True)
class Progress:
    """How far a preprocessing is."""

    documents: int = 0
    empty_documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the texts tokenized so far."""
    read_bytes: int = 0
    """Bytes of the input files read so far, as they are stored."""
    total_bytes: int = 0
    """Bytes of all input files."""
    seconds: float = 0.0

    @property
    def documents_per_second(self) -> float:
        """Documents tokenized per second."""
        return self.documents / self.seconds if self.seconds else 0.0

    @property
    def megabytes_per_second(self) -> float:
        """10^6 bytes of text per second (bytes, not characters)."""
        return self.text_bytes / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def fraction(self) -> float:
        """Part of the input that is read, 0 to 1."""
        return self.read_bytes / self.total_bytes if self.total_bytes else 1.0


@dataclass(frozen=True)
class _Batch:
    """Documents on their way to a worker."""

    texts: list[str]
    where: str


@dataclass(frozen=True)
class _Encoded:
    """Documents on their way back: ids of all, concatenated, and how many each has."""

    tokens: npt.NDArray[np.integer]
    lengths: npt.NDArray[np.int64]
    text_bytes: int
    empty: int


def preprocess(settings: PreprocessSettings, progress: Callable[[Progress], None] | None = None) -> DatasetManifest:
    """Write ``PREFIX.bin``, ``.idx``, ``.json`` and copies of the tokenizer's files; returns the manifest.

    Args:
        settings: what to do.
        progress: called after every batch.
    """
    outputs = _outputs(settings)
    reader = CorpusReader(
        settings.inputs,
        json_key=settings.json_key,
        text_suffixes=settings.text_suffixes,
        skip_undecodable=settings.skip_undecodable,
        exclude=_own_files(outputs),
    )
    _protect_inputs(outputs, reader.files, settings.tokenizer)
    tokenizer = settings.tokenizer.build()
    dtype = best_dtype(tokenizer.vocab_size)
    make = partial(_encoder, settings.tokenizer, settings.append_eod, dtype.str)
    with (
        IndexedDatasetWriter(settings.prefix, dtype) as writer,
        OrderedWorkers[_Batch, _Encoded](settings.workers, make) as workers,
    ):
        state = Progress(total_bytes=reader.total_bytes)
        start = time.monotonic()
        for encoded in workers.map(_batches(reader)):
            writer.add_documents(encoded.tokens, encoded.lengths)
            state = _advanced(state, encoded, reader.read_bytes, time.monotonic() - start)
            if progress is not None:
                progress(state)
        if not state.text_bytes:
            raise DataError(
                f"the corpus is empty: {state.documents} documents in {len(reader.files)} files hold no text"
            )
        manifest = _describe(settings, tokenizer, reader, state, writer.seal())
        for field, path in tokenizer_copies(settings.tokenizer, settings.prefix).items():
            source = settings.tokenizer.files()[field]
            with reporting("read", source):
                writer.stage(path, source.read_bytes())
        writer.stage(manifest_path(settings.prefix), encode_manifest(manifest))
    return manifest


def preprocess_files(
    inputs: Sequence[PathLike],
    prefix: PathLike,
    *,
    tokenizer: str = "byte",
    tokenizer_options: dict[str, object] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: object,
) -> DatasetManifest:
    """``preprocess`` from plain arguments, as a command line has them; every mistake in them is a ``DataError`` or
    ``TokenizerError``.

    Args:
        inputs: files, folders and globs.
        prefix: path of the dataset without its endings.
        tokenizer: kind of tokenizer.
        tokenizer_options: its settings, such as ``model``; None values are left out.
        progress: called after every batch.
        options: the other fields of ``PreprocessSettings``.
    """
    built = tokenizer_settings(tokenizer, **(tokenizer_options or {}))
    try:
        settings = PreprocessSettings.model_validate(
            {"inputs": tuple(map(str, inputs)), "prefix": Path(prefix), "tokenizer": built, **options}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc']))} cannot be {first['input']!r}: {first['msg']}") from error
    return preprocess(settings, progress)


def _outputs(settings: PreprocessSettings) -> list[Path]:
    prefix = settings.prefix
    return [
        bin_path(prefix),
        idx_path(prefix),
        manifest_path(prefix),
        *tokenizer_copies(settings.tokenizer, prefix).values(),
    ]


def _own_files(outputs: list[Path]) -> list[Path]:
    """Files of an earlier dataset of the same prefix, which a folder of texts must not give as a text."""
    return outputs if is_manifest(outputs[2]) else []


def _protect_inputs(outputs: list[Path], inputs: Sequence[Path], tokenizer: TokenizerSettingsBase) -> None:
    """Refuse to write over a text, or over a file of the manifest's name that is something else."""
    texts = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in texts:
            raise DataError(
                f"{output} is one of the texts to read and would be written over: choose another output prefix"
            )
    manifest = outputs[2]
    if manifest.exists() and not is_manifest(manifest):
        raise DataError(
            f"{manifest} is there and is not the manifest of a dataset: remove it or choose another output prefix"
        )


def _batches(documents: CorpusReader) -> Iterator[_Batch]:
    """Documents in batches of about half a million characters; where the bounds lie changes nothing in the result."""
    held: list[Document] = []
    characters = 0
    for document in documents:
        held.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(held) >= _BATCH_DOCUMENTS:
            yield _batch(held)
            held, characters = [], 0
    if held:
        yield _batch(held)


def _batch(documents: list[Document]) -> _Batch:
    first, last = documents[0], documents[-1]
    where = f"{first.source}, line {first.line}, to {last.source}, line {last.line}"
    return _Batch([document.text for document in documents], where)


def _encoder(tokenizer: TokenizerSettingsBase, append_eod: bool, dtype: str) -> Callable[[_Batch], _Encoded]:
    """What a worker does with a batch; called once in each worker."""
    return partial(_encode, tokenizer.build(), append_eod, np.dtype(dtype))


def _encode(tokenizer: Tokenizer, append_eod: bool, dtype: np.dtype[np.integer], batch: _Batch) -> _Encoded:
    try:
        ids = tokenizer.encode_batch(batch.texts)
    except TokenizerError as error:
        raise TokenizerError(f"{error} (among the documents from {batch.where})") from error
    end = [np.array([tokenizer.eod], np.int32)] if append_eod else []
    return _Encoded(
        tokens=np.concatenate([part for document in ids for part in (document, *end)]).astype(dtype),
        lengths=np.array([len(document) + append_eod for document in ids], np.int64),
        text_bytes=sum(len(text.encode()) for text in batch.texts),
        empty=sum(not text for text in batch.texts),
    )


def _advanced(state: Progress, encoded: _Encoded, read_bytes: int, seconds: float) -> Progress:
    return replace(
        state,
        documents=state.documents + len(encoded.lengths),
        empty_documents=state.empty_documents + encoded.empty,
        tokens=state.tokens + len(encoded.tokens),
        text_bytes=state.text_bytes + encoded.text_bytes,
        read_bytes=read_bytes,
        seconds=seconds,
    )


def _describe(
    settings: PreprocessSettings, tokenizer: Tokenizer, reader: CorpusReader, state: Progress, written: WrittenPair
) -> DatasetManifest:
    return DatasetManifest(
        tokenizer=describe_tokenizer(tokenizer, settings.tokenizer, settings.prefix),
        documents=state.documents,
        empty_documents=state.empty_documents,
        tokens=written.tokens,
        text_bytes=state.text_bytes,
        dtype=best_dtype(tokenizer.vocab_size).name,
        append_eod=settings.append_eod,
        json_key=settings.json_key,
        sources=tuple(reader.sources),
        undecodable=tuple(str(path) for path in reader.undecodable),
        bin_size=written.bin_size,
        bin_sha256=written.bin_sha256,
        idx_size=written.idx_size,
        idx_sha256=written.idx_sha256,
    )
