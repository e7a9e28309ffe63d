"""What a run reads: one dataset or a blend of several, how each is divided, and in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from megadape.data.blend_order import normalise
from megadape.data.loader import LoaderSettings
from megadape.data.samples import MAX_SEED, Recipe
from megadape.data.splits import SplitBy, parse_split
from megadape.errors import DataError
from megadape.settings import Settings


class BlendedDataset(Settings):
    """One dataset of a blend."""

    prefix: Path
    """Path of the indexed dataset without .bin and .idx."""

    weight: float = Field(gt=0, le=1e18)
    """Its share of the samples; weights need not add up to 1."""

    name: str | None = Field(default=None, pattern=r"^[^/\s]+$")
    """What it is called in messages, metrics and results; the last part of the prefix when not given."""

    split: str | None = None
    """Shares of training, validation and test; data.split when not given."""

    split_by: SplitBy | None = None
    """range or hash; data.split_by when not given."""

    max_epochs: float | None = Field(default=None, gt=0)
    """As data.max_epochs, which it goes before."""

    @field_validator("split")
    @classmethod
    def _well_formed(cls, split: str | None) -> str | None:
        return None if split is None else check_split(split)


class DataSettings(Settings):
    """Where the tokens come from and how they are divided and shuffled."""

    prefix: Path | None = None
    """Path of the indexed dataset without .bin and .idx; for several datasets give blend instead."""

    blend: tuple[BlendedDataset, ...] | None = Field(default=None, min_length=1)
    """Several datasets, each with its weight."""

    split: str = "969,30,1"
    """Shares of training, validation and test."""

    split_by: SplitBy = "range"
    """range: sequences in their order, as Megatron does; hash: whole documents by a seeded hash."""

    split_seed: int = Field(default=0, ge=0)
    """Seed of the hash split; not the run's seed, so that runs with other seeds are tested on the same documents."""

    recipe: Recipe = "megatron"
    """Which project's order of samples to follow."""

    max_epochs: float | None = Field(default=None, gt=0)
    """How often a run may read its training split at most: more is an error before the first step; null: no limit."""

    cache_dir: Path | None = None
    """Folder of the sample indexes, may be local to a node; PREFIX.cache beside each dataset when not given."""

    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Seed of the order of samples; the run's seed when not given."""

    loader: LoaderSettings = LoaderSettings()
    """Reading ahead."""

    @field_validator("split")
    @classmethod
    def _well_formed(cls, split: str) -> str:
        return check_split(split)

    @model_validator(mode="after")
    def _one_or_several(self) -> DataSettings:
        if self.prefix is None and self.blend is None:
            raise ValueError("there is no data: give data.prefix, the path of one dataset, or data.blend, several")
        if self.prefix is not None and self.blend is not None:
            raise ValueError(
                "data.prefix is for one dataset and data.blend for several, but both are given: leave one out, or set "
                "it to null"
            )
        named = Counter(part.name for part in self.parts)
        twice = [name for name, count in named.items() if count > 1]
        if twice:
            raise ValueError(f"data.blend has {named[twice[0]]} datasets named {twice[0]}: give each a name of its own")
        return self

    @property
    def parts(self) -> tuple[BlendPart, ...]:
        """The datasets, each with settings of its own; one dataset is a blend of one."""
        if self.prefix is not None:
            return (BlendPart("data", self.prefix.name, 1.0, self.prefix, self),)
        assert self.blend is not None
        weights = normalise([each.weight for each in self.blend])
        return tuple(
            BlendPart(f"data.blend[{place}]", each.name or each.prefix.name, weight, each.prefix, self._alone(each))
            for place, (each, weight) in enumerate(zip(self.blend, weights.tolist(), strict=True))
        )

    def _alone(self, each: BlendedDataset) -> DataSettings:
        own = {key: getattr(each, key) for key in ("split", "split_by", "max_epochs")}
        given = {key: value for key, value in own.items() if value is not None}
        return self.model_copy(update={"prefix": each.prefix, "blend": None, **given})


@dataclass(frozen=True)
class BlendPart:
    """One dataset of a run, with everything that holds for it."""

    key: str
    """Where the settings describe it: data, or data.blend[0]."""

    name: str
    weight: float
    """Its share of the samples; all add up to 1."""

    prefix: Path
    settings: DataSettings
    """As if it were the only dataset."""


def check_split(split: str) -> str:
    """The split; ``ValueError`` when it is malformed."""
    try:
        parse_split(split)
    except DataError as error:
        raise ValueError(str(error)) from error
    return split
