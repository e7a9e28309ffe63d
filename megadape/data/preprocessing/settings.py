"""What to preprocess, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from megadape.data.files import with_ending
from megadape.data.readers import MAX_LINE_BYTES
from megadape.data.reading.formats import CutOptions
from megadape.data.reading.records import Selection
from megadape.data.tokenizers import TokenizerSettings
from megadape.settings import Settings

OnBadLine = Literal["error", "skip", "quarantine"]


class PreprocessSettings(Settings):
    """What to preprocess, with which tokenizer, into which files."""

    inputs: tuple[str | Path, ...] = Field(min_length=1)
    """Files, folders, globs, - for JSON lines from standard input, hf:NAME[@SPLIT] for datasets of Hugging Face."""

    prefix: Path
    """Path of the dataset without its endings."""

    tokenizer: TokenizerSettings
    """Which tokenizer."""

    json_keys: tuple[str, ...] = Field(default=("text",), min_length=1)
    """Keys of the texts in JSON objects, with dots for nested ones; one dataset for each."""

    key_ending: str | None = None
    """What a dataset's name has behind the prefix, with {key} for its key; by default nothing for one key, _{key} for
    several."""

    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Key -> values: only records with one of the values under every key are read, the others are counted."""

    document_separator: str | None = None
    """Line between the documents of a plain text file, empty for blank lines; without it each file is one document."""

    append_eod: bool = False
    """Whether every document ends with the end-of-document token."""

    workers: int = Field(default=1, ge=1)
    """Processes that read and tokenize; the result is the same for any number."""

    text_suffixes: tuple[str, ...] = ()
    """Further file endings, such as .py, that are read as plain text."""

    skip_undecodable: bool = False
    """Pass over plain text files that are not UTF-8 instead of failing."""

    on_bad_line: OnBadLine = "error"
    """What a record that gives no document does: stop everything, be counted, or be counted and kept in
    PREFIX.quarantine.jsonl."""

    max_bad_lines: int | None = Field(default=None, ge=0)
    """With more bad records than this everything stops."""

    max_line_bytes: int = Field(default=MAX_LINE_BYTES, ge=1, lt=1 << 31)
    """A longer line, or document of plain text, is bad; it is never held in memory."""

    resume: bool | None = None
    """What to do with the work of a run that was killed: go on with it, discard it, or (when not given) refuse."""

    block_bytes: int = Field(default=1 << 20, ge=1)
    """Input that a worker gets at once."""

    shard_bytes: int = Field(default=1 << 26, ge=1)
    """Input after which progress is written down; a killed run loses no more than this."""

    @field_validator("document_separator")
    @classmethod
    def _one_line(cls, separator: str | None) -> str | None:
        if separator is not None and ("\n" in separator or "\\n" in separator):
            raise ValueError("the separator is one line: give the line itself, or nothing for blank lines")
        return separator

    @model_validator(mode="after")
    def _datasets_differ(self) -> Self:
        for key in self.json_keys:
            if "/" in key and (self.key_ending or len(self.json_keys) > 1):
                raise ValueError(f"the JSON key {key!r} cannot be a part of a file's name: preprocess it by itself")
        if len(set(self.datasets().values())) < len(self.json_keys):
            raise ValueError(f"json_keys {', '.join(self.json_keys)} would write the same dataset twice")
        return self

    def datasets(self) -> dict[str, Path]:
        """Key -> prefix of its dataset."""
        ending = self.key_ending
        if ending is None:
            ending = "_{key}" if len(self.json_keys) > 1 else ""
        return {key: with_ending(self.prefix, ending.replace("{key}", key)) for key in self.json_keys}

    def selection(self) -> Selection:
        """Which values of which records are texts."""
        return Selection(self.json_keys, self.where)

    def cut_options(self) -> CutOptions:
        """How the inputs are cut."""
        separator = None if self.document_separator is None else self.document_separator.rstrip().encode()
        return CutOptions(self.selection(), separator, self.max_line_bytes, self.block_bytes, self.shard_bytes)
