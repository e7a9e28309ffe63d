"""What may be said with so many seeds, in words."""

from __future__ import annotations

from megadape.evaluation.statistics.signflip import can_decide, smallest_p

LEVEL = 0.05
"""Below this an adjusted p is called decided."""


def seeds_needed(level: float = LEVEL) -> int:
    """The fewest seeds whose exact test can come out below a level."""
    return next(seeds for seeds in range(1, 64) if can_decide(seeds, level))


def describe_power(seeds: int, level: float = LEVEL) -> str:
    """What the exact test of so many seeds can and cannot show: a sentence."""
    reach = f"with {seeds} seed{'s' * (seeds != 1)} the exact paired test cannot give a p below {smallest_p(seeds):.2g}"
    if can_decide(seeds, level):
        return f"{reach}, so it can decide at the level {level:g}."
    return (
        f"{reach}, so it cannot decide at the level {level:g}, however large the difference; it takes "
        f"{seeds_needed(level)} seeds. Differences and intervals are descriptions here."
    )
