"""Everything that is said about one method against another at one length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp, inf

import numpy as np

from megadape.evaluation.statistics.bootstrap import REPLICATES, crossed_bootstrap
from megadape.evaluation.statistics.discovery import adjust_for_discoveries
from megadape.evaluation.statistics.estimates import Interval, effect_size, has_spread, hedges_factor, paired_t
from megadape.evaluation.statistics.pairs import Pairs
from megadape.evaluation.statistics.signflip import can_decide, sign_flip_test, smallest_p


@dataclass(frozen=True)
class PairedComparison:
    """Reference - other, in nats a token: below 0 the reference is better.

    What is None is not defined, and ``reason`` says why.
    """

    seeds: int
    """Pairs: seeds that both have."""
    sequences: int
    """Texts that each pair has read."""
    unpaired: tuple[int, ...]
    """Seeds that only one has, which were left out."""
    seed_differences: tuple[float, ...]
    """Mean over the sequences, for each seed."""
    difference: float | None
    """Mean over the seeds."""
    interval: Interval | None
    """Where other seeds would put it, at 95 %, on these texts: of the paired t test."""
    t_p: float | None
    """The paired t test's, two-sided."""
    effect: float | None
    """Cohen's d_z: the difference in standard deviations of the seeds' differences."""
    corrected_effect: float | None
    """Hedges': d_z without its bias at few seeds."""
    exact_p: float | None
    """Of the sign-flip test over seeds, two-sided."""
    smallest_p: float
    """What the exact test could reach at best with so many seeds."""
    bootstrap: Interval | None
    """Where other seeds and other texts would put the difference, at 95 %."""
    reason: str
    """Why something is None, else empty."""
    adjusted_p: float | None = None
    """The exact p, adjusted for the family of comparisons that it was made in; None before that."""

    @property
    def perplexity_ratio(self) -> float | None:
        """Perplexity of the reference over the other's (geometric means over seeds)."""
        if self.difference is None:
            return None
        return exp(self.difference) if self.difference < 700 else inf

    def verdict(self, level: float) -> str:
        """What the adjusted exact test says: better, worse (of the reference), or undecided."""
        if self.adjusted_p is None or self.difference is None or not can_decide(self.seeds, level):
            return "undecided"
        if self.adjusted_p >= level:
            return "undecided"
        return "better" if self.difference < 0 else "worse"


def compare_pairs(pairs: Pairs, *, replicates: int = REPLICATES, seed: int = 0) -> PairedComparison:
    """Compare two methods; whatever the pairs are, nothing that comes out is NaN.

    Args:
        pairs: of both.
        replicates: of the bootstrap.
        seed: of whatever is drawn.
    """
    count, sequences = pairs.reference.shape
    with np.errstate(over="ignore", invalid="ignore"):
        first, second = pairs.reference.mean(-1), pairs.other.mean(-1)
        differences = first - second
    undefined = PairedComparison(
        count, sequences, pairs.unpaired, (), None, None, None, None, None, None, smallest_p(count), None, ""
    )
    if count == 0:
        return replace(undefined, reason="no seed is common to both")
    diverged = [str(seed) for seed, finite in zip(pairs.seeds, np.isfinite(differences), strict=True) if not finite]
    if diverged:
        return replace(undefined, reason=f"a loss is not finite (seed {', '.join(diverged)})")
    found = replace(
        undefined,
        seed_differences=tuple(differences.tolist()),
        difference=float(differences.mean()),
        exact_p=float(sign_flip_test(differences, seed)),
    )
    if count == 1:
        return replace(found, reason="one seed shows no spread")
    found = replace(found, bootstrap=crossed_bootstrap(pairs.differences, replicates=replicates, seed=seed))
    if not has_spread(first, second):
        return replace(found, reason="the differences of all seeds are equal")
    test, effect = paired_t(first, second), float(effect_size(differences))
    return replace(
        found,
        interval=Interval(float(test.low), float(test.high)),
        t_p=float(test.p),
        effect=effect,
        corrected_effect=effect * hedges_factor(count) if count > 2 else None,
        reason="" if count > 2 else "two seeds are too few to correct the effect size",
    )


def adjust_comparisons(family: Mapping[int, PairedComparison]) -> dict[int, PairedComparison]:
    """One method against another at every length: their exact p values, adjusted for one another."""
    adjusted = adjust_for_discoveries([comparison.exact_p for comparison in family.values()])
    return {
        length: replace(comparison, adjusted_p=p)
        for (length, comparison), p in zip(family.items(), adjusted, strict=True)
    }
