"""Samples of several datasets, mixed in fixed shares: Megatron's blend."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

from megadape.data.blend_order import Choices, Floats, block_length, greedy_order
from megadape.errors import DataError


class Samples(Protocol):
    """Training samples by number, in the order in which they are taken."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: SupportsIndex) -> npt.NDArray[np.int64]:
        """[L + 1] tokens; ``IndexError`` outside."""
        ...


@dataclass(frozen=True)
class BlendIndex:
    """Which dataset gives each sample of a blend."""

    choices: Choices
    """[n], number of the dataset."""

    drawn: npt.NDArray[np.int64]
    """[blocks, datasets], samples of each dataset before every ``block_length(n)``-th sample."""

    def problem(self) -> str | None:
        """What is wrong with these arrays, if anything."""
        count, block = len(self.choices), block_length(len(self.choices))
        if self.choices.ndim != 1 or self.drawn.ndim != 2 or len(self.drawn) != -(-count // block) or not count:
            return "its arrays have the wrong shape"
        if self.choices.max() >= self.drawn.shape[1]:
            return "it names a dataset that there is not"
        if self.drawn[0].any() or (self.drawn.sum(axis=1) != np.arange(0, count, block)).any():
            return "its counts do not add up"
        return None

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """[datasets], samples that each gives in all."""
        rest = self.choices[(len(self.drawn) - 1) * block_length(len(self.choices)) :]
        counts: npt.NDArray[np.int64] = self.drawn[-1] + np.bincount(rest, minlength=self.drawn.shape[1])
        return counts

    def find(self, k: int) -> tuple[int, int]:
        """Dataset of the k-th sample, and which of its samples that is."""
        dataset, block = self.choices[k], k // block_length(len(self.choices))
        start = block * block_length(len(self.choices))
        before = int(np.count_nonzero(self.choices[start:k] == dataset))
        return int(dataset), int(self.drawn[block, dataset]) + before


def build_blend_index(weights: Floats, samples: int) -> BlendIndex:
    """The order of a blend; about a second for each dataset and 10^8 samples.

    Weights that are millions apart cost more: see ``megadape.data.blend_order``.

    Args:
        weights: [k], normalised.
        samples: of the whole blend.
    """
    assert samples > 0
    if len(weights) > 1 << 16:
        raise DataError(f"a blend of {len(weights)} datasets is too large: merge some, 65,536 is the most")
    return BlendIndex(*greedy_order(weights, samples))


class BlendedSamples:
    """``samples[k]`` is the k-th sample of a blend, [L + 1] int64 tokens.

    Args:
        parts: samples of each dataset, at least as many as the index takes; None where it takes none.
        index: the order.
    """

    def __init__(self, parts: Sequence[Samples | None], index: BlendIndex) -> None:
        self.parts, self.index = parts, index
        for part, count in zip(parts, index.counts, strict=True):
            assert (0 if part is None else len(part)) >= count

    def __len__(self) -> int:
        return len(self.index.choices)

    def __getitem__(self, k: SupportsIndex) -> npt.NDArray[np.int64]:
        number = operator.index(k)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        dataset, own = self.index.find(number % len(self))
        part = self.parts[dataset]
        assert part is not None
        return part[own]
