"""Losses of two methods on the same texts, from the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megadape.errors import EvaluationError

SeedLosses = Mapping[int, Sequence[float]]
"""Seed -> mean loss of each evaluation sequence, nats a token, in the order of the text."""


@dataclass(frozen=True)
class Pairs:
    """Two methods side by side: row i of both is the same seed, column j the same text."""

    seeds: tuple[int, ...]
    """Those that both have, increasing."""
    reference: np.ndarray
    """[seeds, sequences], nats a token."""
    other: np.ndarray
    """[seeds, sequences]."""
    unpaired: tuple[int, ...] = ()
    """Seeds that only one of the two has; they are left out."""

    @property
    def differences(self) -> np.ndarray:
        """Reference - other, [seeds, sequences]: negative where the reference is better."""
        return self.reference - self.other


def pair_losses(reference: SeedLosses, other: SeedLosses, names: tuple[str, str] = ("reference", "other")) -> Pairs:
    """Pair two methods by the seeds that both have; there may be none.

    Args:
        reference: losses of the one.
        other: losses of the other.
        names: of both, for errors.

    Raises:
        EvaluationError: they were not evaluated on the same number of sequences, or on none.
    """
    counts = {
        (name, seed): len(values)
        for name, losses in zip(names, (reference, other), strict=True)
        for seed, values in losses.items()
    }
    (first, expected), *others = counts.items() or [(("", 0), 1)]
    for second, count in others:
        if count != expected:
            raise EvaluationError(
                f"{_called(first)} was evaluated on {expected} sequences and {_called(second)} on {count}: only "
                "results on the same texts can be compared, evaluate both with the same settings"
            )
    if expected == 0:
        raise EvaluationError(f"{_called(first)} was evaluated on no sequence: there is nothing to compare")
    seeds = tuple(sorted(reference.keys() & other.keys()))
    shape = (len(seeds), expected)
    return Pairs(
        seeds,
        np.array([reference[seed] for seed in seeds], dtype=np.float64).reshape(shape),
        np.array([other[seed] for seed in seeds], dtype=np.float64).reshape(shape),
        tuple(sorted(reference.keys() ^ other.keys())),
    )


def _called(key: tuple[str, int]) -> str:
    return f"{key[0]} (seed {key[1]})"
