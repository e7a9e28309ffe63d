"""How a model is evaluated at lengths that it was not trained at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from megadape.data.settings import check_split
from megadape.settings import Settings

PAPER_LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)

Split = Literal["train", "valid", "test"]
Length = Annotated[int, Field(ge=1)]
SetName = Annotated[str, StringConstraints(pattern=r"^[^/\s.][^/\s]*$")]


class EvaluationSet(Settings):
    """A dataset to evaluate on, made with the run's tokenizer."""

    prefix: Path
    """Path of the indexed dataset without .bin and .idx."""

    split: Split | Literal["all"] = "all"
    """Which part of it: all of it, or one that shares names."""

    shares: str | None = None
    """Shares of training, validation and test; data.split when not given."""

    @field_validator("shares")
    @classmethod
    def _well_formed(cls, shares: str | None) -> str | None:
        return None if shares is None else check_split(shares)


class PositionLossSettings(Settings):
    """Loss by position: every prediction of sequences of one length, averaged over stretches of positions."""

    length: int | None = Field(default=None, ge=1)
    """Tokens fed at a time; the longest of evaluation.lengths when not given."""

    sequences: int | None = Field(default=None, ge=1)
    """At most how many; evaluation.sequences when not given."""

    stretches_per_doubling: int = Field(default=4, ge=1, le=64)
    """n: stretches begin at position 0 and at the whole parts of 2^(i/n)."""


class PasskeySettings(Settings):
    """Passkey retrieval: a key of digits, hidden at some depth of a long text, is asked for at its end."""

    lengths: tuple[Length, ...] | None = Field(default=None, min_length=1)
    """Tokens fed; those of evaluation.lengths that hold the sentences around the key when not given."""

    depths: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0), min_length=1)
    """Where the key stands, as a share of the text: 0 its beginning, 1 its end."""

    trials: int = Field(default=10, ge=1)
    """Texts of each length and depth; each costs one reading, whatever the number of candidates."""

    candidates: int = Field(default=10, ge=2, le=1000)
    """Keys that the right one is compared with, itself among them; chance is 1 / candidates."""

    digits: int = Field(default=5, ge=1, le=18)
    """Of a key."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of keys and texts; not the run's seed, so that all runs see the same trials."""

    filler: str | None = Field(default=None, min_length=1)
    """Sentence that is repeated around the key; the text of the first evaluation set when not given."""

    @model_validator(mode="after")
    def _enough_keys(self) -> PasskeySettings:
        if self.candidates > 10**self.digits:
            raise ValueError(f"there are no {self.candidates} keys of {self.digits} digits: raise digits")
        return self


class EvaluationSettings(Settings):
    """Lengths, what is scored, and how much."""

    lengths: tuple[Length, ...] = Field(default=PAPER_LENGTHS, min_length=1)
    """Tokens fed at a time."""

    mode: Literal["fixed_target", "last_k", "all"] = "fixed_target"
    """Which predictions count: the same final ones at every length, the last k of each sequence, or all."""

    last_k: int = Field(default=256, ge=1)
    """At most how many predictions at the end of a sequence count (fixed_target, last_k)."""

    sequences: int = Field(default=16, ge=1)
    """At most how many sequences a length."""

    batch_tokens: int = Field(default=16384, ge=1)
    """Tokens fed at once; at least one sequence is."""

    split: Split = "valid"
    """Which part of the run's own data is read."""

    sets: dict[SetName, EvaluationSet] | None = Field(default=None, min_length=1)
    """Datasets to evaluate on, by name; the run's own data, each dataset of its blend, when not given."""

    positions: PositionLossSettings | None = None
    """Loss by position; null: not measured."""

    passkey: PasskeySettings | None = None
    """Passkey retrieval; null: not measured."""
