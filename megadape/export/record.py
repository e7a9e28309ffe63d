"""``megadape.json``: what an exported folder says of its model, beside what transformers reads.

Everything in the folder but the weights and the tokenizer follows from it; an imported run keeps it, so that it is
exported again to the same bytes. It names no path of the machine that made it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from megadape.data.manifest import TokenizerManifest
from megadape.errors import ExportError
from megadape.model import Architecture
from megadape.settings import Settings

PREFIX = "megadape"
"""Of the record, and of the tokenizer's own files beside it."""

RECORD = f"{PREFIX}.json"

Dtype = Literal["float32", "bfloat16"]


class FileFacts(Settings):
    """A file of weights."""

    bytes: int
    sha256: str


class DataFacts(Settings):
    """A dataset that the model was trained on, as its manifest has it."""

    name: str
    weight: float
    """Its share of the training samples."""
    documents: int
    tokens: int
    text_bytes: int
    files: int
    """That it was made from."""
    append_eod: bool
    bin_sha256: str
    idx_sha256: str


class EvaluationRow(Settings):
    """What was measured at one length."""

    length: int
    perplexity: float
    bits_per_byte: float
    tokens: int
    """Scored."""


class EvaluationFacts(Settings):
    """One table of the run's evaluation."""

    name: str
    """Of the text."""
    mode: str
    rows: tuple[EvaluationRow, ...]


class Record(Settings):
    """What is known of an exported model."""

    format: Literal["megadape-export"] = "megadape-export"
    version: Literal[1] = 1
    step: int
    """Updates that the weights have seen."""
    consumed_samples: int
    """Training sequences that they have seen."""
    dtype: Dtype
    """Of the weights in the folder."""
    license: str
    changed: bool = False
    """Whether the weights were changed after they were exported."""
    settings: dict[str, Any]
    """Of the run: seed, model, positions, mixer, training."""
    data: tuple[DataFacts, ...]
    tokenizer: TokenizerManifest
    evaluations: tuple[EvaluationFacts, ...] = ()
    checkpoint_sha256: str
    """Of the run's checkpoint, as its manifest has it."""
    layout: dict[str, int] = Field(default_factory=dict)
    """Ranks that wrote the checkpoint: tp, pp, dp."""
    trained_with: dict[str, str | None] = Field(default_factory=dict)
    """Versions when the checkpoint was written."""
    exported_by: dict[str, str | bool | None] = Field(default_factory=dict)
    """Version, and commit where the code lies in a repository of its own."""
    weights: dict[str, FileFacts] = Field(default_factory=dict)
    """File -> what it must be."""

    @property
    def architecture(self) -> Architecture:
        """What decides the function that the model computes."""
        return Architecture(
            model=self.settings["model"],
            positions=self.settings["positions"],
            mixer=self.settings["mixer"],
            training_length=self.settings["training"]["sequence_length"],
        )

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def read_record(folder: Path) -> Record:
    """The record of an exported folder.

    Raises:
        ExportError: it is missing or malformed.
    """
    path = folder / RECORD
    try:
        record = Record.model_validate_json(path.read_bytes())
        assert record.architecture.model.vocab_size
    except FileNotFoundError as error:
        raise ExportError(
            f"{folder} has no {RECORD}: only folders that megadape export made can be imported (if transformers wrote "
            "it anew, copy megadape.* from the folder that it was loaded from)"
        ) from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValidationError, KeyError, TypeError, AssertionError) as error:
        raise ExportError(f"{path} is damaged, or of another version of megadape: {_reason(error)}") from error
    return record


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return f"{type(error).__name__} {error}".strip()
