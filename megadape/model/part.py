"""What one pipeline stage holds of a model, and how layers are dealt to stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch


@dataclass(frozen=True)
class Part:
    """What one rank holds of a model's layers."""

    layers: tuple[int, ...]
    """Indices of its blocks in the whole model, increasing."""

    embedding: bool = True
    """The token embedding (first stage)."""

    head: bool = True
    """Final norm and output layer (last stage); with tied embeddings that is the embedding once more."""


class PositionStreams:
    """Generators from which positions are drawn in training, one for each run of layers of a stage.

    All stages of a pipeline see the same micro-batches in the same order: seeded alike, they draw alike, whatever else
    each of them draws. Unseeded, torch's own generator serves.
    """

    def __init__(self) -> None:
        self._state: torch.Tensor | None = None
        self._generators: dict[int, torch.Generator] = {}

    def seed(self, seed: int) -> None:
        """Start all of them."""
        self.load(torch.Generator().manual_seed(seed).get_state())

    def of(self, run: int) -> torch.Generator | None:
        """The generator of a run of layers."""
        if self._state is None:
            return None
        if run not in self._generators:
            generator = torch.Generator()
            generator.set_state(self._state)
            self._generators[run] = generator
        return self._generators[run]

    def state(self) -> torch.Tensor | None:
        """Where all of them stand between steps."""
        return next((generator.get_state() for generator in self._generators.values()), self._state)

    def load(self, state: torch.Tensor) -> None:
        """Put all of them there."""
        self._state = state
        self._generators.clear()


def deal_evenly(weights: Sequence[int], stages: int) -> tuple[tuple[int, ...], ...]:
    """Consecutive layers for each stage, at least one, so that the heaviest stage is as light as can be.

    Among such deals, the one whose stages differ least (sum of squares).

    Args:
        weights: of the layers.
        stages: at most as many as layers.
    """
    count, sums = len(weights), [0, *accumulate(weights)]
    assert 1 <= stages <= count
    # best[n]: (heaviest, sum of squares, cuts) of the first n layers over the stages so far
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, (0,))}
    for stage in range(1, stages + 1):
        best = {
            end: min(
                (max(heaviest, load), squares + load * load, (*cuts, end))
                for start, (heaviest, squares, cuts) in best.items()
                if start < end
                for load in (sums[end] - sums[start],)
            )
            for end in range(stage, count - stages + stage + 1)
        }
    cuts = best[count][2]
    return tuple(tuple(range(first, end)) for first, end in pairwise(cuts))
