"""From sequences to training samples: the recipes of Megatron-core and GPT-NeoX, in numpy.

The sequences of a split, repeated for as many epochs as are needed and shuffled, are one long stream of tokens. Sample
k in stream order is tokens k L .. k L + L of it (L + 1 tokens; the last is shared with the next sample), and the
samples are drawn in a shuffled order. Three arrays say all that:

1. T = tokens of the split, n = samples wanted, E = least number of epochs with (E T - 1) // L >= n.
2. document index: the sequence ids repeated E times, shuffled by ``numpy.random.RandomState(seed)``;
3. sample index: where in the document index each sample begins;
4. shuffle index: the order in which samples are drawn, shuffled by the same generator.

The ``megatron`` recipe shuffles the last epoch on its own when less than 80 % of its samples are wanted, so that the
other epochs are seen whole; ``neox`` never does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from megadape.data.indexed import IndexedDataset
from megadape.errors import DataError

Recipe = Literal["megatron", "neox"]
Integers = npt.NDArray[np.integer]

SampleIndexBuilder = Callable[[], "SampleIndex"]

MAX_SEED = 2**32 - 1
"""Largest seed that ``numpy.random.RandomState`` takes."""


@dataclass(frozen=True)
class SampleIndex:
    """Which tokens every sample is made of."""

    document_index: Integers
    """[documents x epochs], sequence ids in stream order."""

    sample_index: Integers
    """[S + 1, 2], (position in the document index, offset in that sequence) of the first token of each sample."""

    shuffle_index: Integers
    """[S], the k-th sample drawn is sample ``shuffle_index[k]`` of the stream."""

    def problem(self) -> str | None:
        """What is wrong with these arrays, if anything: shape, range, or a shuffle index that is no permutation."""
        count = len(self.shuffle_index)
        if self.document_index.ndim != 1 or self.shuffle_index.ndim != 1 or self.sample_index.shape != (count + 1, 2):
            return "its arrays have the wrong shape"
        positions, offsets = self.sample_index[:, 0], self.sample_index[:, 1]
        if positions.min() < 0 or positions.max() >= len(self.document_index) or offsets.min() < 0:
            return "its samples begin outside of the split"
        if count and (self.shuffle_index.min() < 0 or self.shuffle_index.max() >= count):
            return "its shuffle index leaves the samples"
        if (np.bincount(self.shuffle_index, minlength=count) != 1).any():
            return "its shuffle index is not a permutation"
        return None


@dataclass(frozen=True)
class _Epochs:
    """How often a split is read: E epochs of T tokens for samples of L tokens."""

    tokens: int
    length: int
    count: int

    @property
    def samples(self) -> int:
        return (self.count * self.tokens - 1) // self.length

    @property
    def samples_before_last(self) -> int:
        return ((self.count - 1) * self.tokens - 1) // self.length if self.count > 1 else 0

    @property
    def samples_in_one(self) -> int:
        return (self.tokens - 1) // self.length


def _megatron_separates(epochs: _Epochs, samples: int) -> bool:
    from_last = samples - epochs.samples_before_last
    return epochs.count > 1 and from_last < int(0.80 * epochs.samples_in_one)


SEPARATES_LAST_EPOCH: dict[str, Callable[[_Epochs, int], bool]] = {
    "megatron": _megatron_separates,
    "neox": lambda epochs, samples: False,
}
"""Recipe -> whether the last epoch is shuffled on its own, given the epochs and the samples wanted."""


def build_sample_index(
    sequences: Integers, sizes: Integers, length: int, samples: int, seed: int, recipe: Recipe = "megatron"
) -> SampleIndex:
    """The sample index of one split.

    Args:
        sequences: [d], ids of the split's sequences.
        sizes: [N], tokens of every sequence of the dataset.
        length: L, tokens that a sample trains on; it holds L + 1.
        samples: samples wanted; at least as many are indexed.
        seed: seed of the shuffles, below 2^32.
        recipe: ``megatron`` or ``neox``.
    """
    assert samples > 0
    assert length > 0
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"the data seed {seed} is out of range: it must be from 0 to {MAX_SEED}")
    tokens = int(sizes[sequences].sum(dtype=np.int64))
    if tokens < length + 1:
        raise DataError(
            f"{tokens} tokens in {len(sequences)} sequences are fewer than one sample of {length} + 1 tokens: "
            "give more text or a shorter sequence length"
        )
    epochs = _Epochs(tokens, length, count=-(-(samples * length + 1) // tokens))
    separate = SEPARATES_LAST_EPOCH[recipe](epochs, samples)
    generator = np.random.RandomState(seed)
    documents = _shuffled_documents(sequences, epochs.count, separate, generator)
    starts = _sample_starts(sizes[documents], length, epochs.samples)
    first = epochs.samples_before_last if separate else epochs.samples
    shuffle: Integers = np.arange(epochs.samples, dtype=_smallest(epochs.samples))
    generator.shuffle(shuffle[:first])
    if separate:
        generator.shuffle(shuffle[first:])
    return SampleIndex(documents, starts, shuffle)


def _shuffled_documents(sequences: Integers, epochs: int, separate: bool, generator: np.random.RandomState) -> Integers:
    documents = np.tile(sequences.astype(_smallest(int(sequences.max()))), epochs)
    together = len(sequences) * (epochs - 1 if separate else epochs)
    generator.shuffle(documents[:together])
    if separate:
        generator.shuffle(documents[together:])
    return documents


def _sample_starts(sizes: Integers, length: int, samples: int) -> Integers:
    """[S + 1, 2]: position in the document index and offset of the tokens 0, L, 2 L, ... of the stream."""
    ends = np.cumsum(sizes, dtype=np.int64)
    starts = np.arange(samples + 1, dtype=np.int64) * length
    # the first sequence that ends after the token holds it; empty sequences hold none
    positions = np.searchsorted(ends, starts, side="right")
    offsets = starts - (ends[positions] - sizes[positions])
    dtype = _smallest(max(int(positions[-1]), int(offsets.max())))
    return np.stack([positions.astype(dtype), offsets.astype(dtype)], axis=1)


def _smallest(largest: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64


class TokenSamples:
    """Training samples of one split: ``samples[k]`` is the k-th sample drawn, [L + 1] int64 tokens; the last is only a
    target.

    Args:
        dataset: where the tokens are.
        sequences: [d], ids of the split's sequences.
        length: L.
        n: how many samples are wanted, which is also ``len``.
        seed: seed of the shuffles, below 2^32.
        recipe: ``megatron`` or ``neox``.
        index: the sample index when it is already known (from a cache); built from the rest otherwise.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        sequences: Integers,
        length: int,
        n: int,
        seed: int,
        recipe: Recipe = "megatron",
        *,
        index: SampleIndex | None = None,
    ) -> None:
        self.dataset = dataset
        self.length = length
        self.index = index or build_sample_index(sequences, dataset.sizes, length, n, seed, recipe)
        self._count = n
        assert n <= len(self.index.shuffle_index)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, k: SupportsIndex) -> npt.NDArray[np.int64]:
        number = operator.index(k)
        if not -self._count <= number < self._count:
            raise IndexError(f"sample {number} of {self._count}")
        row = int(self.index.shuffle_index[number % self._count])
        (first, start), (last, end) = self.index.sample_index[row].tolist(), self.index.sample_index[row + 1].tolist()
        parts = []
        for position in range(first, last + 1):
            begin = start if position == first else 0
            sequence = self.index.document_index[position]
            # the token at (last, end) is the first of the next sample and the last target of this one
            length = end + 1 - begin if position == last else None
            parts.append(self.dataset.get(sequence, begin, length))
        return np.concatenate(parts).astype(np.int64)
