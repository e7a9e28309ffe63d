"""Datasets of Hugging Face, streamed: ``hf:NAME``, ``hf:NAME:CONFIG``, ``hf:FOLDER``, each with ``@SPLIT`` behind it.

A row becomes a line of JSON with the columns that are asked for; from there on it is a line of a .jsonl file.
Size and digest of such a source are those of these lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import orjson

from megadape.data.reading.records import Selection
from megadape.errors import DataError

MARK = "hf:"
"""What an input of this kind begins with."""

_SAVED = ("dataset_dict.json", "dataset_info.json")


@dataclass(frozen=True)
class HubDataset:
    """One split of a dataset."""

    given: str
    """As the user wrote it."""
    name: str
    config: str | None
    split: str

    @classmethod
    def parse(cls, given: str) -> Self:
        """From ``hf:NAME[:CONFIG][@SPLIT]``; a folder's name may hold colons."""
        name, _, split = given.removeprefix(MARK).partition("@")
        base, _, config = name.partition(":")
        if not name:
            raise DataError(f"{given} names no dataset: write hf:NAME, or hf:NAME@SPLIT")
        if Path(name).exists():
            return cls(given, name, None, split or "train")
        return cls(given, base, config or None, split or "train")

    def identity(self) -> str:
        """What changes when the dataset does, as far as its library knows."""
        datasets = self._library()
        with self._explained():
            if self._saved():
                return str(self._load()._fingerprint)
            builder = datasets.load_dataset_builder(self.name, self.config)
            return f"{builder.config_id} {builder.hash}"

    def lines(self, selection: Selection) -> Iterator[bytes]:
        """The rows as lines of JSON."""
        names = (*selection.keys, *selection.where)
        roots = {*names, *(name.partition(".")[0] for name in names)}
        with self._explained():
            rows = iter(self._load())
        while True:
            with self._explained():
                row = next(rows, None)
            if row is None:
                return
            yield _line({name: value for name, value in row.items() if name in roots})

    def _load(self) -> Any:  # noqa: ANN401 - one of several classes of an untyped library
        datasets = self._library()
        if not self._saved():
            return datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
        saved = datasets.load_from_disk(self.name)
        return saved[self.split] if isinstance(saved, dict) else saved

    def _saved(self) -> bool:
        return any((Path(self.name) / name).is_file() for name in _SAVED)

    def _library(self) -> ModuleType:
        try:
            import datasets
        except ImportError as error:
            raise DataError(f"reading {self.given} needs datasets: pip install 'megadape[hf-datasets]'") from error
        return datasets

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The library's errors have no class in common."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"cannot read {self.given}: {type(error).__name__}: {error}") from error


def _line(row: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a lone surrogate: the worker says so
        return json.dumps(row, default=str).encode() + b"\n"
