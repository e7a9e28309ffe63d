"""Training through a pipeline equals one process: losses, gradient norms, evaluations and final parameters, for every
schedule, with plain torch and with DeepSpeed's ZeRO 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import (
    STEPS,
    Arrays,
    Case,
    arrays,
    check,
    mesh_of,
    start,
    step,
)

from megadape.testing import run_distributed

pytestmark = [pytest.mark.usefixtures("all_cores"), pytest.mark.timeout(900)]

SCHEDULES = ("1f1b", "interleaved", "zero_bubble")
ENGINES = {"torch": 0, "deepspeed": 1}
"""Engine -> ZeRO stage that it uses with a pipeline."""


def over_schedules(*cases: Case, **parallel: Any) -> list[Case]:
    return [
        replace(case, engine=engine, parallel={"pp": 2, "schedule": schedule, "zero": zero, **parallel})
        for engine, zero in ENGINES.items()
        for schedule in SCHEDULES
        for case in cases
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_schedule_equals_one_process(engine: str) -> None:
    """Evaluation at other lengths between steps disturbs none; a stage that does not use its copy of a shared parameter
    (learned positions) still takes part in the sum."""
    cases = over_schedules(
        Case("kerple_log", "dape", evaluations=(24, 7)),
        Case("rope", tied=True),
        Case("learned"),
    )
    check(2, [case for case in cases if case.engine == engine])


def test_zero_bubble_with_several_layers_a_run() -> None:
    cases = over_schedules(Case("t5", "dape", tied=True, layers=8))
    check(2, [case for case in cases if case.parallel["schedule"] == "zero_bubble"])


def test_copies_of_shared_parameters_stay_the_same_bits() -> None:
    cases = over_schedules(Case("t5", "dape", tied=True))
    first, second = check(2, cases)
    for case, one, other in zip(cases, first, second, strict=True):
        shared = one.parameters.keys() & other.parameters.keys()
        assert any(name.startswith("shared_positions.") for name in shared)
        # the ends of a V are on one rank
        assert ("embedding.weight" in shared) == (case.parallel["schedule"] != "zero_bubble")
        for name in shared:
            assert np.array_equal(one.parameters[name], other.parameters[name]), f"{case}: {name}"


def test_activation_checkpointing_and_positions_drawn_alike_on_all_stages() -> None:
    drawn = over_schedules(Case("randomized_rope", "dape"))
    recomputed = [replace(case, checkpointing=True) for case in drawn if case.parallel["schedule"] != "zero_bubble"]
    check(2, drawn + recomputed)


def test_half_precision_products() -> None:
    cases = over_schedules(Case("rope", precision="bf16"))
    fp16 = [case for case in over_schedules(Case("rope", precision="fp16")) if has_fp16(case)]
    check(2, cases + fp16)


def has_fp16(case: Case) -> bool:
    return case.engine == "torch" or case.parallel["schedule"] != "1f1b"


def test_with_data_parallel_ranks() -> None:
    check(4, over_schedules(Case("kerple_log", "dape"), Case("t5", tied=True)))


def test_with_four_stages() -> None:
    """Middle stages hold no end of the model; they still share the table."""
    cases = over_schedules(Case("t5", tied=True), pp=4)
    deep = over_schedules(Case("t5", tied=True, layers=8), pp=4)
    check(
        4,
        [case for case in cases if case.parallel["schedule"] == "1f1b"]
        + [case for case in deep if case.parallel["schedule"] != "1f1b"],
    )


def test_with_sequence_parallel_ranks() -> None:
    """Activations between stages differ over tensor-parallel ranks, and must not be sent in slices."""
    cases = over_schedules(Case("t5", tied=True, evaluations=(7,)), tp=2, sequence_parallel=True)
    check(4, [case for case in cases if case.parallel["schedule"] == "1f1b"])


@pytest.mark.slow
def test_every_schedule_with_tensor_parallel_ranks() -> None:
    """About 40 s: four processes, six runs with a mixer."""
    whole = over_schedules(Case("kerple_log", "dape"), tp=2)
    split = over_schedules(Case("t5", "dape", tied=True, evaluations=(7,)), tp=2, sequence_parallel=True)
    check(4, [case for case in whole if case.engine == "torch"] + [case for case in split if case.engine != "torch"])


def go_on_elsewhere(pairs: list[tuple[Case, Case]]) -> list[tuple[Arrays, Arrays]]:
    """Parameters after all steps by one engine, and by another from the middle on."""
    results = []
    for before, after in pairs:
        mesh = mesh_of(before)
        _, engine = start(before, mesh)
        _, other = start(after, mesh)
        for index in range(STEPS):
            if index == STEPS // 2:
                other.load_state(engine.state())
            step(engine, mesh, index)
            if index >= STEPS // 2:
                step(other, mesh, index)
        assert other.state().updates == STEPS
        results.append((arrays(engine.state().parameters), arrays(other.state().parameters)))
    return results


def test_a_state_goes_from_one_engine_to_the_other() -> None:
    pairs = []
    for schedule in ("1f1b", "zero_bubble"):
        in_torch, in_deepspeed = (
            Case("t5", tied=True, engine=engine, parallel={"pp": 2, "schedule": schedule, "zero": zero})
            for engine, zero in ENGINES.items()
        )
        pairs += [(in_torch, in_deepspeed), (in_deepspeed, in_torch)]
    for by_pair in run_distributed(2, go_on_elsewhere, pairs):
        for straight, continued in by_pair:
            for name, value in straight.items():
                np.testing.assert_allclose(continued[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


HUGE = 2.0**30
"""A loss scale at which fp16's gradients overflow."""


def overflow(cases: list[Case]) -> list[tuple[bool, bool, float | None]]:
    """Of each case: whether the first step was skipped, whether parameters stayed as they were, the next loss scale."""
    results = []
    for case in cases:
        mesh = mesh_of(case)
        training = case.training
        scale = training.loss_scale.model_copy(update={"initial": HUGE})
        model, engine = start(case, mesh, training.model_copy(update={"loss_scale": scale}))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        skipped = step(engine, mesh, 0).skipped
        stayed = all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
        results.append((skipped, stayed, step(engine, mesh, 1).loss_scale))
    return results


def test_an_overflow_skips_the_update_on_all_stages() -> None:
    cases = [case for case in over_schedules(Case("rope", precision="fp16")) if has_fp16(case)]
    for by_case in run_distributed(2, overflow, cases):
        assert by_case == [(True, True, HUGE / 2)] * len(cases)
