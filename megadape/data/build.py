"""The data of a run: an indexed dataset, divided and turned into samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from megadape.data.index_cache import IndexCache
from megadape.data.indexed import IndexedDataset
from megadape.data.samples import MAX_SEED, Integers, Recipe, TokenSamples, build_sample_index
from megadape.data.splits import SplitBy, SplitSequences, parse_split, split_sequences
from megadape.errors import DataError
from megadape.settings import Settings


class DataSettings(Settings):
    """Where the tokens come from and how they are divided and shuffled."""

    prefix: Path
    """Path of the indexed dataset without .bin and .idx."""

    split: str = "969,30,1"
    """Shares of training, validation and test."""

    split_by: SplitBy = "range"
    """range: sequences in their order, as Megatron does; hash: whole documents by a seeded hash."""

    split_seed: int = Field(default=0, ge=0)
    """Seed of the hash split; not the run's seed, so that runs with other seeds are tested on the same documents."""

    recipe: Recipe = "megatron"
    """Which project's order of samples to follow."""

    cache_dir: Path | None = None
    """Folder of the sample indexes; PREFIX.cache beside the dataset when not given."""

    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Seed of the order of samples; the run's seed when not given."""

    @field_validator("split")
    @classmethod
    def _well_formed(cls, split: str) -> str:
        try:
            parse_split(split)
        except DataError as error:
            raise ValueError(str(error)) from error
        return split


@dataclass(frozen=True)
class Splits:
    """The samples of a run; a split of which no samples are wanted is None."""

    dataset: IndexedDataset
    sequences: SplitSequences
    train: TokenSamples | None
    valid: TokenSamples | None
    test: TokenSamples | None


def build_splits(settings: DataSettings, sequence_length: int, samples: tuple[int, int, int], seed: int) -> Splits:
    """Open the dataset, divide it and index as many samples of each split as are wanted.

    Args:
        settings: the ``data`` section.
        sequence_length: L, tokens that a sample trains on.
        samples: how many samples of training, validation and test; 0 builds none.
        seed: the run's seed, used where the settings give none.
    """
    dataset = IndexedDataset(settings.prefix)
    sequences = split_sequences(dataset, settings.split, settings.split_by, settings.split_seed)
    cache = IndexCache(settings.prefix, settings.cache_dir)
    seed = seed if settings.seed is None else settings.seed
    parts = []
    for name, ids, count in zip(SplitSequences._fields, sequences, samples, strict=True):
        _require_tokens(name, ids, dataset, sequence_length if count else 0, settings)
        parts.append(_samples(dataset, ids, sequence_length, count, seed, settings.recipe, cache) if count else None)
    return Splits(dataset, sequences, *parts)


def token_stream(dataset: IndexedDataset, sequences: Integers, limit: int | None = None) -> npt.NDArray[np.int64]:
    """The tokens of the given sequences, one after another, in order: [at most limit]."""
    parts: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    left = limit
    for sequence in sequences:
        if left is not None and left <= 0:
            break
        tokens = dataset[sequence][:left].astype(np.int64)
        parts.append(tokens)
        left = None if left is None else left - len(tokens)
    return np.concatenate(parts)


def _samples(
    dataset: IndexedDataset, sequences: Integers, length: int, count: int, seed: int, recipe: Recipe, cache: IndexCache
) -> TokenSamples:
    path = cache.path(sequences, length=length, samples=count, seed=seed, recipe=recipe)
    index = cache.get(path, lambda: build_sample_index(sequences, dataset.sizes, length, count, seed, recipe))
    return TokenSamples(dataset, sequences, length, count, seed, recipe, index=index)


def _require_tokens(
    name: str, sequences: Integers, dataset: IndexedDataset, length: int, settings: DataSettings
) -> None:
    """A clear error when a split that is wanted holds less than one sample."""
    tokens = int(dataset.sizes[sequences].sum(dtype=np.int64))
    if length and tokens < length + 1:
        raise DataError(
            f"the {name} split of {settings.prefix} (data.split {settings.split}, by {settings.split_by}) has {tokens} "
            f"tokens in {len(sequences)} of {len(dataset)} sequences, fewer than one sample of {length} + 1 tokens: "
            "give it a larger share, more text or a shorter sequence length"
        )
