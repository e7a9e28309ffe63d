"""Bubbles and micro-batches in flight, against simulated clocks and torch's own schedules."""

from __future__ import annotations

from typing import Any

import pytest
from torch.distributed.pipelining import schedules

from megadape.parallel.settings import ParallelSettings
from megadape.plan.pipeline import bubble_share, idle_passes, in_flight


def settings(pp: int, schedule: str, virtual: int = 2) -> ParallelSettings:
    return ParallelSettings.model_validate({"pp": pp, "schedule": schedule, "virtual_stages": virtual, "zero": 1})


def test_bubbles_by_hand() -> None:
    assert idle_passes(settings(4, "1f1b"), 8) == 3
    assert bubble_share(settings(4, "1f1b"), 8) == pytest.approx(3 / 11)
    assert idle_passes(settings(4, "interleaved", 3), 8) == pytest.approx(1)
    assert idle_passes(settings(4, "zero_bubble"), 8) == pytest.approx(1)
    assert idle_passes(ParallelSettings(), 5) == 0


def test_a_single_micro_batch_passes_through_all_stages_whatever_the_schedule() -> None:
    assert idle_passes(settings(4, "1f1b"), 1) == idle_passes(settings(4, "interleaved"), 1) == 3
    # its weight gradients wait for nobody: two of the three thirds
    assert idle_passes(settings(4, "zero_bubble"), 1) == pytest.approx(2)


def forward_clock(stages: int, virtual: int, micro_batches: int) -> float:
    """When the last rank ends its forward passes, in passes of one micro-batch through one rank: chunks run in rounds
    of all micro-batches, each as soon as its rank and its input are there."""
    free = [0.0] * stages
    done: dict[tuple[int, int], float] = {}
    for chunk in range(virtual):
        for micro_batch in range(micro_batches):
            for rank in range(stages):
                place = chunk * stages + rank
                start = max(free[rank], done.get((place - 1, micro_batch), 0.0))
                done[place, micro_batch] = free[rank] = start + 1 / virtual
    return max(free)


@pytest.mark.parametrize(
    ("stages", "virtual", "micro_batches"), [(4, 2, 1), (4, 2, 3), (4, 2, 4), (3, 3, 2), (8, 2, 5)]
)
def test_the_interleaved_bubble_is_that_of_a_clock(stages: int, virtual: int, micro_batches: int) -> None:
    idle = forward_clock(stages, virtual, micro_batches) - micro_batches
    assert idle_passes(settings(stages, "interleaved", virtual), micro_batches) == pytest.approx(idle)


def most_in_flight(kind: Any, stages: int, virtual: int, micro_batches: int, rank: int) -> float:
    """Counted in the list of operations that torch makes for a rank."""
    schedule = object.__new__(kind)  # its constructor wants stages of a real process group
    rounds = max(1, micro_batches // stages)
    vars(schedule).update(
        pp_group_size=stages,
        num_stages=stages * virtual,
        _num_stages=stages * virtual,
        n_local_stages=virtual,
        _n_microbatches=micro_batches,
        number_of_rounds=rounds,
        microbatches_per_round=micro_batches // rounds,
        rank=rank,
    )
    steps = {"FORWARD": 1, "FULL_BACKWARD": -1, "BACKWARD_WEIGHT": -1}
    flying = most = 0
    for action in schedule._calculate_single_rank_operations(rank):
        flying += steps.get(action.computation_type.name, 0) if action else 0
        most = max(most, flying)
    return most / virtual


@pytest.mark.parametrize(
    ("stages", "virtual", "micro_batches"), [(2, 2, 4), (4, 2, 8), (4, 3, 8), (4, 2, 2), (4, 2, 6)]
)
def test_interleaved_flights_are_those_of_torch(stages: int, virtual: int, micro_batches: int) -> None:
    parallel = settings(stages, "interleaved", virtual)
    for rank in range(stages):
        counted = most_in_flight(schedules.ScheduleInterleaved1F1B, stages, virtual, micro_batches, rank)
        assert in_flight(parallel, rank, micro_batches) == counted


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 8), (4, 16)])
def test_zero_bubble_flights_are_those_of_torch(stages: int, micro_batches: int) -> None:
    for rank in range(stages):
        counted = most_in_flight(schedules.ScheduleZBVZeroBubble, stages, 2, micro_batches, rank)
        assert in_flight(settings(stages, "zero_bubble"), rank, micro_batches) == counted


def test_1f1b_keeps_as_many_as_stages_follow() -> None:
    assert [in_flight(settings(4, "1f1b"), stage, 8) for stage in range(4)] == [4, 3, 2, 1]
    assert [in_flight(settings(4, "1f1b"), stage, 2) for stage in range(4)] == [2, 2, 2, 1]
