"""Half precision: products alone are rounded, on every engine alike; fp16's loss scale."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch
from engine_worlds import BATCH, RATE, Case, assert_equal, micro_batches, run_cases, start, tokens

from megadape.errors import TrainingError
from megadape.testing import run_distributed
from megadape.training.engines.loss_scale import LossScale, LossScaleSettings
from megadape.training.engines.objective import Objective

STAGES = (0, 1, 2, 3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_the_same_on_every_engine(precision: str) -> None:
    plain = Case(precision=precision, micro=1)
    stages = {f"zero {zero}": replace(plain, engine="deepspeed", zero=zero) for zero in STAGES}
    outcomes = run_cases(2, {"torch": plain, "fp32": replace(plain, precision="fp32"), **stages})
    expected, exact = outcomes.pop("torch"), outcomes.pop("fp32")
    for outcome in outcomes.values():
        # the engines differ by the rounding of float32 alone, which is far below that of products
        assert_equal(outcome, expected, relative=1e-4, absolute=1e-3)
    for ours, theirs in zip(expected.steps, exact.steps, strict=True):
        assert ours.loss != theirs.loss
        assert ours.loss == pytest.approx(theirs.loss, rel=0.01)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=0.05)


def accumulate(cases: list[Case]) -> list[tuple[float, float]]:
    """The gradient norm that each engine finds, and that of gradients which are added up in float64."""
    norms = []
    for case in cases:
        model, _, _ = start(replace(case, engine="torch", zero=0))
        objective = Objective(model, case.precision, torch.device("cpu"))
        exact = {name: torch.zeros_like(parameter).double() for name, parameter in model.named_parameters()}
        for micro_batch in tokens(0).split(case.micro):
            objective(micro_batch).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    exact[name] += parameter.grad.double() * case.micro / BATCH
                parameter.grad = None
        _, engine, mesh = start(case)
        found = engine.train_step(micro_batches(0, case.micro, mesh), RATE).grad_norm
        norms.append((found, float(torch.cat([tensor.flatten() for tensor in exact.values()]).norm())))
    return norms


def test_micro_batches_add_up_in_float32() -> None:
    """Added up in bf16 they would be off by a thousandth."""
    case = Case(precision="bf16", micro=1)
    cases = [case, *(replace(case, engine="deepspeed", zero=zero) for zero in STAGES)]
    for found, exact in run_distributed(2, accumulate, cases)[0]:
        assert found == pytest.approx(exact, rel=1e-6)


# at these scales gradients of fp16 products overflow in some updates and not in others
OVERFLOWING = Case(precision="fp16", steps=6, loss_scale={"initial": 2.0**21, "growth_interval": 2})


@pytest.mark.parametrize(("ranks", "tp"), [(2, 1), (4, 2)])
def test_an_overflow_is_skipped_on_all_ranks_alike(ranks: int, tp: int) -> None:
    plain = replace(OVERFLOWING, tp=tp)
    stages = {f"zero {zero}": replace(plain, engine="deepspeed", zero=zero) for zero in STAGES}
    outcomes = run_cases(ranks, {"torch": plain, **stages})
    expected = outcomes.pop("torch")
    skipped = [step.skipped for step in expected.steps]
    scales = [step.loss_scale for step in expected.steps]
    assert any(skipped)
    assert not all(skipped)
    assert expected.state.updates == skipped.count(False)
    assert all((step.grad_norm == inf) == step.skipped for step in expected.steps)
    for before, after, overflowed in zip(scales, scales[1:], skipped, strict=False):
        assert before is not None
        assert after in ((before / 2,) if overflowed else (before, 2 * before))
    for outcome in outcomes.values():
        for ours, theirs in zip(outcome.steps, expected.steps, strict=True):
            assert (ours.skipped, ours.loss_scale) == (theirs.skipped, theirs.loss_scale)
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
            if not theirs.skipped:
                assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
        assert outcome.state.updates == expected.state.updates
        assert outcome.state.loss_scale == expected.state.loss_scale


def skip_one(cases: list[Case]) -> list[bool]:
    """Whether each engine's state is the same bits before and after an update that overflows."""
    same = []
    for case in cases:
        _, engine, mesh = start(case)
        engine.train_step(micro_batches(0, case.micro, mesh), RATE)
        before = engine.state()
        kept = [
            tensor.clone() for tensors in (before.parameters, *before.moments.values()) for tensor in tensors.values()
        ]
        before.loss_scale = {"value": 2.0**40, "good_updates": 0}
        engine.load_state(before)
        assert engine.train_step(micro_batches(1, case.micro, mesh), RATE).skipped
        after = engine.state()
        now = [tensor for tensors in (after.parameters, *after.moments.values()) for tensor in tensors.values()]
        same.append(after.updates == 1 and all(map(torch.equal, kept, now)))
    return same


def test_a_skipped_update_changes_nothing() -> None:
    case = Case(precision="fp16", loss_scale={"initial": 1024.0})
    cases = [case, *(replace(case, engine="deepspeed", zero=zero) for zero in STAGES)]
    assert run_distributed(2, skip_one, cases) == [[True] * len(cases)] * 2


def overflow_on_one_rank(cases: list[Case]) -> list[tuple[bool, bool]]:
    """Whether each engine skips an update where one gradient of the last rank is infinite, and makes the next one."""
    seen = []
    for case in cases:
        model, engine, mesh = start(case)
        infinite = [mesh.rank == mesh.place.world - 1]
        bias = dict(model.named_parameters())["blocks.1.mlp.input.bias"]  # which is sharded
        bias.register_hook(lambda grad, infinite=infinite: grad + inf if infinite[0] else grad)
        first = engine.train_step(micro_batches(0, case.micro, mesh), RATE).skipped
        infinite[0] = False
        seen.append((first, engine.train_step(micro_batches(1, case.micro, mesh), RATE).skipped))
    return seen


def test_an_overflow_on_one_rank_is_seen_by_all() -> None:
    case = Case(tp=2, precision="fp16", loss_scale={"initial": 1024.0})
    cases = [case, *(replace(case, engine="deepspeed", zero=zero) for zero in STAGES)]
    assert run_distributed(4, overflow_on_one_rank, cases) == [[(True, False)] * len(cases)] * 4


def test_the_scale_halves_doubles_and_gives_up() -> None:
    scale = LossScale(LossScaleSettings(initial=8, growth_interval=3, minimum=2))
    seen = []
    for overflowed in (False, False, True, False, False, False, True, True):
        scale.update(overflowed, 5)
        seen.append(scale.value)
    assert seen == [8, 8, 4, 4, 4, 8, 4, 2]
    with pytest.raises(TrainingError, match=r"step 6 .* loss scale of 2, .*training.loss_scale.minimum is 2"):
        scale.update(True, 6)


def test_the_scale_goes_on_where_it_stood() -> None:
    scale = LossScale(LossScaleSettings(initial=8, growth_interval=2))
    scale.update(False, 1)
    other = LossScale(LossScaleSettings(initial=2, growth_interval=2))
    other.load_state(scale.state())
    other.update(False, 2)
    assert other.value == 16
