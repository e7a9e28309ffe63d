"""What a study file says: a grid of methods x sizes x training lengths x seeds over settings that all runs share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from megadape.config import Overlay
from megadape.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a folder: use letters, digits, '.', '_', '-', '+', and a letter or digit first"
        )
    return name


Name = Annotated[str, AfterValidator(_check_name)]
"""Names a folder, and a row of a table."""


class Layer(Settings):
    """Settings of runs: files, and keys of its own laid over them."""

    files: tuple[Path, ...] = ()
    """Settings files as megadape train takes them, relative to the study file."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Keys laid over the files, nested as in a settings file."""

    def stack(self, study: Path, key: str) -> list[Path | Overlay]:
        """What lies over what, for ``load``; ``key`` is where this stands in the study file."""
        # written so that the user knows the path again: ../models/demo.yaml beside configs/studies/x.yaml
        files: list[Path | Overlay] = [Path(os.path.normpath(study.parent / file)) for file in self.files]
        return [*files, Overlay(self.set, f"{study} ({key}.set)")] if self.set else files


class StudyText(Settings):
    """The text that a study preprocesses for itself, where its runs name no dataset."""

    source: Path | None = None
    """A file or folder of text; null: the sources of Python's own standard library, which are always there."""

    tokenizer: Literal["byte", "sentencepiece"] = "byte"
    """byte, or sentencepiece trained on the text."""

    vocabulary: int = Field(default=512, ge=300)
    """With sentencepiece: pieces."""


class StudySettings(Settings):
    """A study: every method at every size and training length with every seed, the rest alike."""

    name: Name
    """Of the study."""

    folder: Path
    """Everything that the study makes lies below: data/, runs/, report/. The same command on it goes on."""

    text: StudyText | None = None
    """Text to preprocess for the runs; without it base must name a dataset (data.prefix or data.blend)."""

    base: Layer
    """What all runs share."""

    methods: dict[Name, Layer] = Field(min_length=1)
    """Name -> position encoding and mixer; the order is that of the tables."""

    sizes: dict[Name, Layer] = Field(default={"base": Layer()}, min_length=1)
    """Name -> model size."""

    training_lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Tokens of a training sequence."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Each is the seed of one run of every method: what is compared is paired by it. Six are the fewest with which an
    exact paired test can fall below 0.05."""

    reference: Name | None = None
    """The method that all others are compared with; default: the last one."""

    @model_validator(mode="after")
    def _parts_agree(self) -> StudySettings:
        for key in ("training_lengths", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice: {', '.join(map(str, values))}")
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(f"reference {self.reference!r} is none of the methods: {', '.join(self.methods)}")
        return self

    @property
    def compared_with(self) -> str:
        """The reference, resolved."""
        return self.reference or list(self.methods)[-1]
