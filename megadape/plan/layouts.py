"""Every way to spread a run over a cluster, and why some are impossible.

A layout is tried by building the run's own settings with it, so a plan refuses exactly what ``megadape train`` refuses,
in the same words; what depends on the cluster is added here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import Literal

from pydantic import ValidationError

from megadape.config.run import RunSettings
from megadape.errors import ConfigurationError
from megadape.plan.cluster import Cluster
from megadape.training.loop import check_batch
from megadape.training.pipeline.placement import check_pipeline

Schedule = Literal["1f1b", "interleaved", "zero_bubble"]
Zero = Literal[0, 1, 2, 3]

ZERO_STAGES: tuple[Zero, ...] = (0, 1, 2, 3)
SCHEDULES: tuple[Schedule, ...] = ("1f1b", "interleaved", "zero_bubble")


@dataclass(frozen=True, order=True)
class Layout:
    """How the ranks of a cluster share a run."""

    tp: int
    pp: int
    dp: int
    zero: Zero = 0
    sequence_parallel: bool = False
    schedule: Schedule = "1f1b"

    @property
    def ranks(self) -> int:
        """In all."""
        return self.tp * self.pp * self.dp

    def overrides(self) -> tuple[str, ...]:
        """The settings that choose this layout, as ``--set`` takes them; data parallelism has the ranks that are
        left."""
        chosen = [f"parallel.tp={self.tp}", f"parallel.pp={self.pp}", f"parallel.zero={self.zero}"]
        if self.tp > 1:
            chosen.append(f"parallel.sequence_parallel={str(self.sequence_parallel).lower()}")
        if self.pp > 1:
            chosen.append(f"parallel.schedule={self.schedule}")
        return tuple(chosen)


@dataclass(frozen=True)
class Refusal:
    """A layout that cannot be, and why."""

    layout: Layout
    reason: str


def divisors(number: int) -> list[int]:
    """All of them, from 1 up."""
    low = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def factorings(ranks: int) -> Iterator[tuple[int, int, int]]:
    """Every (tp, pp, dp) whose product is the number of ranks."""
    for tp in divisors(ranks):
        for pp in divisors(ranks // tp):
            yield tp, pp, ranks // (tp * pp)


def layouts(cluster: Cluster) -> Iterator[Layout]:
    """Every layout of a cluster; choices that change nothing at a degree of 1 are left out."""
    for tp, pp, dp in factorings(cluster.ranks):
        splits = (False, True) if tp > 1 else (False,)
        orders = SCHEDULES if pp > 1 else SCHEDULES[:1]
        for zero, split, schedule in product(ZERO_STAGES, splits, orders):
            yield Layout(tp, pp, dp, zero, split, schedule)


def settings_for(run: RunSettings, layout: Layout) -> RunSettings:
    """The run's settings with this layout; ``ConfigurationError`` where they refuse it."""
    chosen = {
        "tp": layout.tp,
        "pp": layout.pp,
        "zero": layout.zero,
        "sequence_parallel": layout.sequence_parallel,
        "schedule": layout.schedule,
    }
    tree = run.model_dump()
    tree["parallel"] |= chosen
    try:
        return type(run).model_validate(tree)
    except ValidationError as error:
        reasons = [details["msg"].removeprefix("Value error, ") for details in error.errors()]
        raise ConfigurationError("; ".join(reasons)) from error


def try_layout(run: RunSettings, cluster: Cluster, layout: Layout) -> RunSettings | Refusal:
    """The run's settings with this layout, or why it cannot be."""
    assert layout.ranks == cluster.ranks
    if cluster.gpus_per_node % layout.tp:
        return Refusal(
            layout,
            f"parallel.tp: {layout.tp} would leave the node: it must divide the {cluster.gpus_per_node} GPUs of one",
        )
    try:
        settings = settings_for(run, layout)
        check_batch(settings.training, layout.dp)
        check_pipeline(settings.training, settings.parallel, settings.model, layout.dp)
    except (ConfigurationError, ValueError) as error:
        return Refusal(layout, str(error))
    return settings
