"""What makes training fast on a GPU changes no number of it, shown on the CPU: the loss in chunks, compiled blocks."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_worlds import (
    RATE,
    Case,
    Outcome,
    assert_equal,
    full_state,
    micro_batches,
    pack,
    run_cases,
    start,
    tokens,
    train,
    unpack,
)

import megadape.config as config
from megadape.errors import ConfigurationError
from megadape.model.compiling import compile_model
from megadape.testing import run_distributed
from megadape.training.accelerator import (
    ALLOCATOR,
    ALLOCATOR_VARIABLES,
    check_compiler,
    prepare_allocator,
    prepare_products,
)
from megadape.training.engines.memory import LiveMemory, measure_bytes

CPU = torch.device("cpu")


def test_the_loss_in_chunks_is_the_same_on_every_engine_and_layout() -> None:
    whole = Case()
    chunked = replace(whole, loss_chunk=5)
    stages = {f"zero {zero}": replace(chunked, engine="deepspeed", zero=zero) for zero in (0, 1, 3)}
    split = replace(chunked, tp=2, sequence_parallel=True)
    outcomes = run_cases(2, {"whole": whole, "chunked": chunked, **stages, "tp 2": replace(chunked, tp=2), "sp": split})
    expected = outcomes.pop("whole")
    for outcome in outcomes.values():
        assert_equal(outcome, expected)


def test_fp16_in_chunks_scales_its_loss_as_ever() -> None:
    case = Case(precision="fp16", steps=4, loss_scale={"initial": 2.0**12, "growth_interval": 2})
    outcomes = run_cases(1, {"whole": case, "chunked": replace(case, loss_chunk=5)})
    for ours, theirs in zip(outcomes["chunked"].steps, outcomes["whole"].steps, strict=True):
        assert (ours.skipped, ours.loss_scale) == (theirs.skipped, theirs.loss_scale)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=5e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_train_alike() -> None:
    """Some twenty seconds, most of them in the C++ compiler. All layers share their code, and both ranks of ZeRO."""
    case = Case(loss_chunk=8, steps=2)
    expected = train(case)
    assert_equal(train_compiled(case), expected)
    sharded = replace(case, engine="deepspeed", zero=2)
    for packed in run_distributed(2, train_compiled_packed, sharded, timeout=240):
        assert_equal(unpack(packed), expected)


def train_compiled(case: Case) -> Outcome:
    from torch._dynamo.utils import counters

    model, engine, mesh = start(case)
    names = list(model.state_dict())
    compile_model(model)
    counters.clear()
    steps = [engine.train_step(micro_batches(step, case.micro, mesh), RATE) for step in range(case.steps)]
    assert counters["stats"]["unique_graphs"] == 3, "before attention, after it, and the loss of a chunk"
    assert not counters["graph_break"]
    assert list(model.state_dict()) == names
    return Outcome(steps, float(engine.evaluate(tokens(1000))), full_state(model, engine, mesh))


def train_compiled_packed(case: Case) -> bytes:
    return pack(train_compiled(case))


def settings(*overrides: str) -> Any:
    models = Path(__file__).parents[2] / "configs/models"
    return config.load([models / "demo.yaml"], ["run_dir=r", "data.prefix=d", "training.compile=true", *overrides])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("parallel.tp=2",), "parallel.tp: 2, since .*set training.compile: false, or parallel.tp: 1"),
        (("parallel.pp=2",), "parallel.pp: 2, since .*set training.compile: false, or parallel.pp: 1"),
        (
            ("training.engine=deepspeed", "parallel.zero=3"),
            "parallel.zero: 3, since .*set training.compile: false, or parallel.zero: 2",
        ),
    ],
)
def test_compiling_is_refused_where_it_cannot_be(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"training\.compile does not go with {said}"):
        settings(*overrides)
    assert settings("training.engine=deepspeed", "parallel.zero=2").training.compile


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigurationError, match="needs the compiler no-such-compiler for cpu"):
        check_compiler(CPU)


def test_the_environment_has_the_last_word_on_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = ALLOCATOR_VARIABLES
    monkeypatch.delenv(new, raising=False)
    monkeypatch.setenv(old, "max_split_size_mb:64")
    prepare_allocator()
    assert new not in os.environ
    monkeypatch.delenv(old)
    monkeypatch.setenv(new, "")  # so that what is set below is taken back
    monkeypatch.delenv(new)
    prepare_allocator()
    assert os.environ[new] == ALLOCATOR


def test_memory_is_measured_until_it_stays_the_same() -> None:
    case = Case()
    model, engine, mesh = start(case)
    memory = LiveMemory(model, engine.optimizer)
    before = [memory.read(), memory.read()]
    assert before == [measure_bytes(model, engine.optimizer)] * 2
    assert before[0].optimizer == 0
    engine.train_step(micro_batches(0, case.micro, mesh), RATE)
    settled = memory.read()
    assert settled == measure_bytes(model, engine.optimizer) == memory.read()
    assert settled.optimizer > 2 * before[0].parameters
    engine.optimizer.state.clear()  # which no run does: what is settled is not measured again
    assert memory.read() == settled


def test_a_cpu_keeps_its_settings() -> None:
    before = torch.get_float32_matmul_precision()
    assert prepare_products(CPU) == {}
    assert torch.get_float32_matmul_precision() == before
