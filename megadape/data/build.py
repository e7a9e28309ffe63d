"""The samples of one dataset: an indexed dataset, divided and turned into samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from megadape.data.index_cache import IndexCache
from megadape.data.indexed import IndexedDataset
from megadape.data.samples import Integers, TokenSamples, build_sample_index
from megadape.data.settings import DataSettings
from megadape.data.splits import SplitSequences, split_sequences
from megadape.errors import DataError

__all__ = ["DataSettings", "DividedDataset", "Splits", "build_splits", "token_stream"]


@dataclass(frozen=True)
class Splits:
    """The samples of a dataset; a split of which no samples are wanted is None."""

    dataset: IndexedDataset
    sequences: SplitSequences
    train: TokenSamples | None
    valid: TokenSamples | None
    test: TokenSamples | None


class DividedDataset:
    """An indexed dataset, and which of its sequences train, validate and test.

    Args:
        settings: of this dataset alone.
        key: where the settings of a run describe it; messages say so.
    """

    def __init__(self, settings: DataSettings, key: str = "data") -> None:
        assert settings.prefix is not None
        self.settings, self.key, self.prefix = settings, key, settings.prefix
        self.dataset = IndexedDataset(self.prefix)
        self.sequences = split_sequences(self.dataset, settings.split, settings.split_by, settings.split_seed)
        self.cache = IndexCache(self.prefix, settings.cache_dir)

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Tokens of each split."""
        sizes = self.dataset.sizes
        return {split: int(sizes[ids].sum(dtype=np.int64)) for split, ids in self.sequences._asdict().items()}

    def epochs(self, split: str, length: int, samples: int) -> float:
        """How often so many samples read a split."""
        return samples * length / max(1, self.tokens[split])

    def require_tokens(self, split: str, length: int) -> None:
        """A clear error when a split holds less than one sample."""
        tokens, sequences = self.tokens[split], getattr(self.sequences, split)
        if tokens < length + 1:
            raise DataError(
                f"the {split} split of {self.prefix} ({self.key}.split {self.settings.split}, by "
                f"{self.settings.split_by}) has {tokens} tokens in {len(sequences)} of {len(self.dataset)} sequences, "
                f"fewer than one sample of {length} + 1 tokens: give it a larger share, more text or a shorter "
                "sequence length"
            )

    def require_epochs(self, length: int, samples: int) -> None:
        """A clear error when training would read its split more often than it may."""
        most = self.settings.max_epochs
        # the last token of the last sample is a target alone
        if most is not None and samples * length + 1 > most * self.tokens["train"]:
            raise DataError(
                f"{samples:,} samples of {length} tokens read the training split of {self.prefix} ({self.key}) "
                f"{self.epochs('train', length, samples):.2f} times, but max_epochs is {most:g}: lower its weight or "
                "training.steps, give it more text, or raise max_epochs"
            )

    def samples(self, split: str, length: int, count: int, seed: int) -> TokenSamples | None:
        """The first ``count`` samples of a split; None where none are wanted.

        Args:
            split: train, valid or test.
            length: L, tokens that a sample trains on.
            count: how many.
            seed: the run's seed, used where the settings give none.
        """
        if not count:
            return None
        self.require_tokens(split, length)
        sequences, recipe = getattr(self.sequences, split), self.settings.recipe
        seed = seed if self.settings.seed is None else self.settings.seed
        path = self.cache.path(sequences, length=length, samples=count, seed=seed, recipe=recipe)
        index = self.cache.get(
            path, lambda: build_sample_index(sequences, self.dataset.sizes, length, count, seed, recipe)
        )
        return TokenSamples(self.dataset, sequences, length, count, seed, recipe, index=index)


def build_splits(settings: DataSettings, sequence_length: int, samples: tuple[int, int, int], seed: int) -> Splits:
    """Open a dataset, divide it and index as many samples of each split as are wanted.

    Args:
        settings: the ``data`` section, for one dataset.
        sequence_length: L, tokens that a sample trains on.
        samples: how many samples of training, validation and test; 0 builds none.
        seed: the run's seed, used where the settings give none.
    """
    divided = DividedDataset(settings)
    parts = [
        divided.samples(split, sequence_length, count, seed)
        for split, count in zip(SplitSequences._fields, samples, strict=True)
    ]
    return Splits(divided.dataset, divided.sequences, *parts)


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
