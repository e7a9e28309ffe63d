"""Pipeline schedules: how many micro-batches are in flight on a stage, and how long it stands idle.

p stages, m micro-batches a step, v virtual stages a rank. Time of the bubble, in forward-and-backward passes of one
micro-batch through one rank's part, where m >= p:

    1f1b          p - 1          (Narayanan et al., 2021, arXiv 2104.04473, section 2.2)
    interleaved   (p - 1) / v    (the same)
    zero_bubble   (p - 1) / 3    at most: that of ZB-H1 (Qi et al., 2023, arXiv 2401.10241, table 2), where forward,
                                 input gradient and weight gradient take a third each; ZB-V itself reaches none only if
                                 they take exactly as long, and attention has no weights

With fewer micro-batches there is less to fill it with: a single one passes through all stages, whatever the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from megadape.parallel.settings import ParallelSettings


@dataclass(frozen=True)
class _Schedule:
    bubble: Callable[[int, int, int], float]
    """(p, v, m) -> passes."""

    in_flight: Callable[[int, int, int, int], float]
    """(p, v, stage, m) -> micro-batches, in units of a rank's whole part."""


def _interleaved_in_flight(stages: int, virtual: int, stage: int, micro_batches: int) -> float:
    a_round = micro_batches // max(1, micro_batches // stages)
    warm_up = (virtual - 1) * a_round + 2 * (stages - 1 - stage)
    return min(warm_up + 1, micro_batches * virtual) / virtual


def _interleaved_bubble(stages: int, virtual: int, micro_batches: int) -> float:
    # every round of virtual stages waits until the first rank is free of the round before
    waiting = virtual * max(0, stages - micro_batches)
    return (waiting + min(stages, micro_batches) - 1) / virtual


def _zero_bubble(stages: int, virtual: int, micro_batches: int) -> float:
    # forward and input gradient go through all stages; the weight gradients of other micro-batches fill the gaps
    return (2 * (stages - 1) - min(micro_batches - 1, stages - 1)) / 3


_SCHEDULES = {
    "1f1b": _Schedule(lambda p, v, m: p - 1, lambda p, v, stage, m: min(p - stage, m)),
    "interleaved": _Schedule(_interleaved_bubble, _interleaved_in_flight),
    "zero_bubble": _Schedule(_zero_bubble, lambda p, v, stage, m: min(p, m)),
}


def in_flight(parallel: ParallelSettings, stage: int, micro_batches: int) -> float:
    """Micro-batches that a stage has run forward and not yet backward, at most."""
    schedule = _SCHEDULES[parallel.schedule]
    return schedule.in_flight(parallel.pp, parallel.virtual_stages, stage, micro_batches)


def idle_passes(parallel: ParallelSettings, micro_batches: int) -> float:
    """How many passes of a micro-batch a rank stands idle in a step."""
    return _SCHEDULES[parallel.schedule].bubble(parallel.pp, parallel.virtual_stages, micro_batches)


def bubble_share(parallel: ParallelSettings, micro_batches: int) -> float:
    """Share of a step's time that a rank stands idle."""
    idle = idle_passes(parallel, micro_batches)
    return idle / (micro_batches + idle)
