"""DeepSpeed's engine equals plain torch at every ZeRO stage, over data- and tensor-parallel ranks."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from engine_worlds import (
    PARTITION_ALL,
    RATE,
    Case,
    Outcome,
    assert_equal,
    assert_equal_states,
    full_state,
    micro_batches,
    own_state,
    run_cases,
    start,
    tokens,
    unpack,
)
from torch.nn import functional

from megadape.testing import run_distributed
from megadape.training.engines.base import EngineState

STAGES = (0, 1, 2, 3)


def alone(case: Case) -> Outcome:
    """The same by plain torch in one process."""
    plain = replace(case, engine="torch", tp=1, zero=0, offload=False, sequence_parallel=False, checkpointing=False)
    return run_cases(1, {"alone": plain})["alone"]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(clip=0.1, steps=4), id="clipped"),
        pytest.param(Case(clip=0.0, micro=1, encoding="t5", checkpointing=True), id="unclipped-accumulated-4-times"),
    ],
)
def test_every_zero_stage_equals_plain_torch(case: Case) -> None:
    stages = {f"zero {zero}": replace(case, engine="deepspeed", zero=zero) for zero in STAGES}
    outcomes = run_cases(2, {"torch": case, **stages})
    expected = alone(case)
    if case.clip:
        assert all(step.grad_norm > 2 * case.clip for step in expected.steps)
    for outcome in outcomes.values():
        assert_equal(outcome, expected)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(tp=2), id="plain"),
        pytest.param(Case(tp=2, sequence_parallel=True, checkpointing=True, encoding="t5"), id="sequence-parallel"),
    ],
)
def test_every_zero_stage_equals_plain_torch_with_tensor_parallelism(case: Case) -> None:
    stages = {f"zero {zero}": replace(case, engine="deepspeed", zero=zero) for zero in STAGES}
    expected = alone(case)
    for outcome in run_cases(4, {"torch": case, **stages}).values():
        assert_equal(outcome, expected)


def test_an_optimizer_on_the_cpu_equals_one_on_the_device() -> None:
    cases = {f"zero {zero}": Case("deepspeed", zero=zero, offload=True) for zero in (1, 2, 3)}
    expected = alone(Case())
    for outcome in run_cases(2, cases).values():
        assert_equal(outcome, expected)


def test_what_a_user_adds_to_deepspeed_changes_no_number() -> None:
    added = {
        "communication_data_type": "fp32",
        "comms_logger": {"enabled": True, "verbose": False},
        "zero_optimization": {
            **PARTITION_ALL["zero_optimization"],
            "reduce_bucket_size": 500,
            "allgather_bucket_size": 500,
            "overlap_comm": True,
            "stage3_prefetch_bucket_size": 300,
            "stage3_max_live_parameters": 1000,
            "stage3_max_reuse_distance": 1000,
            "sub_group_size": 2000,
        },
    }
    cases = {f"zero {zero}": Case("deepspeed", zero=zero, deepspeed=added) for zero in STAGES}
    expected = alone(Case())
    for outcome in run_cases(2, cases).values():
        assert_equal(outcome, expected)


ENGINES = [Case(steps=2, odd=True), *(Case("deepspeed", zero=zero, steps=2, odd=True) for zero in STAGES)]


def hand_over(source: Case, targets: list[Case]) -> bytes:
    """Two steps on one engine, then two more on it and on each of the others; all full states, this rank's."""
    model, engine, mesh = start(source)
    for step in range(2):
        engine.train_step(micro_batches(step, source.micro, mesh), RATE)
    middle = full_state(model, engine, mesh)
    states = [middle]
    for target in targets:
        model, engine, _ = start(target)
        engine.load_state(own_state(model, middle))
        states.append(full_state(model, engine, mesh))
        for step in range(2, 4):
            engine.train_step(micro_batches(step, target.micro, mesh), RATE)
        states.append(full_state(model, engine, mesh))
    packed = io.BytesIO()
    torch.save(states, packed)
    return packed.getvalue()


@pytest.mark.parametrize("source", ENGINES, ids=lambda case: f"{case.engine} zero {case.zero}")
def test_a_state_loads_on_every_engine_and_stage(source: Case) -> None:
    states: list[EngineState] = unpack(run_distributed(2, hand_over, source, ENGINES)[0])
    expected = run_cases(1, {"whole": replace(ENGINES[0], steps=4)})["whole"].state
    middle, *rest = states
    assert middle.updates == 2
    assert middle.moments
    for loaded, final in zip(rest[::2], rest[1::2], strict=True):
        assert_equal_states(loaded, middle)
        assert_equal_states(final, expected, absolute=2e-5)


def test_a_state_of_two_ranks_loads_on_four_and_back() -> None:
    two = unpack(run_distributed(2, hand_over, ENGINES[3], [])[0])[0]
    packed = run_distributed(4, continue_from, two, [replace(case, tp=2) for case in ENGINES])[0]
    expected = run_cases(1, {"whole": replace(ENGINES[0], steps=4)})["whole"].state
    for loaded, final in unpack(packed):
        assert_equal_states(loaded, two)
        assert_equal_states(final, expected, absolute=2e-5)


def continue_from(state: EngineState, targets: list[Case]) -> bytes:
    """The state as loaded, and two steps later, of each engine."""
    states = []
    for target in targets:
        model, engine, mesh = start(target)
        engine.load_state(own_state(model, state))
        loaded = full_state(model, engine, mesh)
        for step in range(2, 4):
            engine.train_step(micro_batches(step, target.micro, mesh), RATE)
        states.append((loaded, full_state(model, engine, mesh)))
    packed = io.BytesIO()
    torch.save(states, packed)
    return packed.getvalue()


def held_between_steps(case: Case) -> list[int]:
    """Elements of the largest parameter held after building, an update, an evaluation with an update, and loading."""
    model, engine, mesh = start(case)

    def held() -> int:
        return max(parameter.numel() for parameter in model.parameters())

    counts = [held()]
    engine.train_step(micro_batches(0, case.micro, mesh), RATE)
    counts.append(held())
    engine.evaluate(tokens(0))
    engine.train_step(micro_batches(1, case.micro, mesh), RATE)
    counts.append(held())
    engine.load_state(own_state(model, full_state(model, engine, mesh)))
    return [*counts, held()]


def test_zero_three_holds_no_whole_parameter_between_steps() -> None:
    assert run_distributed(2, held_between_steps, Case("deepspeed", zero=3)) == [[0, 0, 0, 0]] * 2


def linear_after_building(case: Case) -> bool:
    """Whether torch's linear function is still torch's."""
    before = functional.linear
    start(case)
    return functional.linear is before


def test_zero_three_leaves_torch_as_it_is() -> None:
    assert run_distributed(1, linear_after_building, Case("deepspeed", zero=3)) == [True]


def train_from_infinity(cases: list[Case]) -> list[tuple[bool, bool]]:
    """With an infinite parameter: whether each engine left the update out, and whether it told of a norm."""
    found = []
    for case in cases:
        _, engine, mesh = start(case)
        state = engine.state()
        state.parameters["embedding.weight"].fill_(float("inf"))
        engine.load_state(state)
        norms: list[float] = []

        def admit(loss: float, norm: float, norms: list[float] = norms) -> bool:
            norms.append(norm)
            return True

        result = engine.train_step(micro_batches(0, case.micro, mesh), RATE, admit)
        found.append((result.skipped, len(norms) == 1 and not math.isfinite(norms[0])))
    return found


def test_gradients_that_are_not_finite_change_nothing_in_any_engine() -> None:
    for by_case in run_distributed(2, train_from_infinity, ENGINES):
        assert by_case == [(True, True)] * len(ENGINES)
