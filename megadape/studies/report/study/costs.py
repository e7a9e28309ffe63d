"""What the methods of a study cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean, median

from megadape.studies.report.study.panels import Group


@dataclass(frozen=True)
class Cost:
    """Of one method, over its runs."""

    runs: int
    parameters: int
    steps: int
    seconds: float
    """Training of a run, mean."""
    tokens_per_second: float
    """In training, median over the runs of their medians."""
    flops_per_token: float | None
    """Of training."""
    relative: float | None = None
    """Time a token, the cheapest method's being 1; None where no speed is known."""


def training_costs(group: Group) -> Mapping[str, Cost]:
    """By method."""
    costs = {}
    for method, cells in group.cells.items():
        first = cells[0]
        costs[method] = Cost(
            len(cells),
            first.parameters,
            first.steps,
            fmean(cell.train_seconds for cell in cells),
            median(cell.tokens_per_second for cell in cells),
            first.flops_per_token,
        )
    fastest = max(cost.tokens_per_second for cost in costs.values())
    return {
        method: replace(cost, relative=fastest / cost.tokens_per_second) if cost.tokens_per_second > 0 else cost
        for method, cost in costs.items()
    }
