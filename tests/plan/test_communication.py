"""Bytes by the formulas are bytes that pass through the groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from megadape.model import Architecture, build_gpt
from megadape.parallel.group import Group, Pending
from megadape.parallel.sharding import Sharding
from megadape.plan.communication import (
    block_backward,
    block_forward,
    data_parallel_step,
    pipeline_step,
    received,
    tensor_parallel_step,
)
from megadape.plan.run import PlannedRun
from megadape.plan.shape import Shape, shape_of
from megadape.testing import run_distributed


@contextmanager
def counting(counted: Counter[str]) -> Iterator[None]:
    """Count what every collective of the package brings to this rank, by the convention of the plan."""
    names = ("all_reduce", "start_all_gather", "start_reduce_scatter", "start_all_to_all")
    methods = {name: getattr(Group, name) for name in names}

    def reduce(group: Group, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        counted["all-reduce"] += received("all-reduce", x.nbytes, group.size)
        return methods["all_reduce"](group, x, *rest, **named)

    def gather(group: Group, x: Tensor, axis: int = 0) -> Pending:
        pending: Pending = methods["start_all_gather"](group, x, axis)
        counted["all-gather"] += pending.tensors[0].nbytes - x.nbytes
        return pending

    def scatter(group: Group, x: Tensor, axis: int = 0) -> Pending:
        pending: Pending = methods["start_reduce_scatter"](group, x, axis)
        counted["reduce-scatter"] += x.nbytes - pending.tensors[0].nbytes
        return pending

    def exchange(group: Group, parts: Any, shapes: Any) -> Pending:
        pending: Pending = methods["start_all_to_all"](group, parts, shapes)
        counted["all-to-all"] += sum(part.nbytes for rank, part in enumerate(pending.tensors) if rank != group.rank)
        return pending

    patched = dict(zip(names, (reduce, gather, scatter, exchange), strict=True))
    for name, method in patched.items():
        setattr(Group, name, method)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Group, name, method)


def planned_run(**keys: Any) -> PlannedRun:
    tree: dict[str, dict[str, Any]] = {
        "model": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "vocab_size": 64},
        "training": {"steps": 1, "sequence_length": 16, "global_batch_size": 2, "micro_batch_size": 2},
        "parallel": {"tp": 2},
        "positions": {},
        "mixer": {},
    }
    for key, value in keys.items():
        section, _, name = key.partition("__")
        tree[section][name] = value
    return PlannedRun.model_validate(tree)


def move(run: PlannedRun) -> tuple[dict[str, float], dict[str, float]]:
    """(counted, planned) bytes by collective of one micro-batch, forward and backward."""
    architecture: Architecture = run.architecture
    group = Group((0, 1), dist.get_rank(), dist.group.WORLD)
    sharding = Sharding(group, run.parallel.sequence_parallel, run.parallel.mixing)
    checkpointing = run.training.activation_checkpointing
    model = build_gpt(architecture, seed=0, sharding=sharding, activation_checkpointing=checkpointing).train()
    tokens = torch.randint(0, 64, (2, 17))
    counted: Counter[str] = Counter()
    with counting(counted):
        with torch.autocast("cpu", torch.bfloat16, enabled=run.training.precision == "bf16"):
            loss = model.loss(tokens)
        loss.backward()
    planned: Counter[str] = Counter()
    for part in tensor_parallel_step(shape_of(run, architecture), 2, 1, first=True, last=True):
        planned[part.collective] += part.bytes
    return dict(counted), dict(planned)


KINDS = (
    ("rope", "none"),
    ("learned", "none"),
    ("fire", "none"),
    ("kerple_log", "dape"),
    ("fire", "dape"),
    ("t5", "dape"),
)
RUNS = [
    planned_run(
        positions__kind=positions,
        mixer__kind=mixer,
        parallel__sequence_parallel=split,
        parallel__mixing=mixing,
        training__precision=precision,
        training__activation_checkpointing=checkpointing,
        model__dropout=dropout,
    )
    for positions, mixer in KINDS
    for mixing in (("rows", "heads") if mixer == "dape" else ("rows",))
    for split in (False, True)
    for precision, checkpointing, dropout in (("fp32", False, 0.0), ("bf16", False, 0.1), ("bf16", True, 0.0))
]


def move_all() -> list[tuple[dict[str, float], dict[str, float]]]:
    torch.manual_seed(0)
    return [move(run) for run in RUNS]


def test_tensor_parallel_bytes_are_what_the_groups_carry() -> None:
    """Both forms of mixing, replicated and split activations, two precisions, dropout, checkpointing."""
    for run, (counted, planned) in zip(RUNS, run_distributed(2, move_all)[0], strict=True):
        assert counted["all-reduce"] > 0
        assert counted == planned, f"{run.positions}, {run.mixer}, {run.parallel}, {run.training.precision}"


def total(parts: Any, reason: str) -> float:
    return sum(part.bytes for part in parts if part.reason.startswith(reason))


def test_rows_by_hand() -> None:
    """The formula and the figure of the published comparison: f s h d 2 B (2 + 2/T), 8.3 MB at T = 8, s = 2048."""
    shape = Shape(1, 2048, 1024, 4096, 16, 50304, tp=8, product=2, encoding_bias=True, mixer_hidden=32)
    moved = total(block_forward(shape), "DAPE: queries") + total(block_forward(shape), "DAPE: keys")
    assert moved == 7 / 8 * 2048 * 1024 * 2 * (2 + 2 / 8)
    assert moved == pytest.approx(8.3e6, rel=0.01)
    backward = total(block_backward(shape), "DAPE: queries") + total(block_backward(shape), "DAPE: keys")
    assert backward == moved


def test_heads_by_hand() -> None:
    shape = Shape(1, 2048, 1024, 4096, 16, 50304, tp=8, product=2, encoding_bias=True, mixer_hidden=32, mixing="heads")
    assert total(block_forward(shape), "DAPE") == 2 * 7 / 8 * 32 * 2048**2 * 2


def test_megatron_reductions_by_hand() -> None:
    """Two all-reduces forward and two backward a block; with split activations the halves of them."""
    whole = Shape(2, 8, 16, 64, 4, 32, tp=4)
    numbers = 2 * 8 * 16
    assert total(block_forward(whole), "") == 2 * (2 * 3 / 4 * 4 * numbers)
    assert total(block_backward(whole), "") == 2 * (2 * 3 / 4 * 4 * numbers)
    split = Shape(2, 8, 16, 64, 4, 32, tp=4, split=True)
    small = 2 * 3 / 4 * 4 * 6 * 16  # gains and biases
    assert total(block_forward(split), "") == total(block_forward(whole), "")
    assert total(block_backward(split), "") == total(block_backward(whole), "") + small


def test_data_parallel_by_hand() -> None:
    numbers, share = 1000, 3 / 4
    by_stage = [total(data_parallel_step(numbers, zero, 4, 5), "") for zero in range(4)]
    assert by_stage[0] == 2 * share * 4000
    assert by_stage[1] == 3 * share * 4000
    assert by_stage[2] == (2 * 5 + 1) * share * 4000
    assert by_stage[3] == (2 * 5 + 5) * share * 4000
    assert data_parallel_step(numbers, 1, 1, 5) == []


def test_pipeline_by_hand() -> None:
    shape = Shape(2, 8, 16, 64, 4, 32, tp=2, split=True)
    parts = pipeline_step(shape, 5, 1, 2, [(100, 2), (7, 4)])
    activation = 4 * 8 * 16  # half of 2 x 8 rows
    assert total(parts, "activations") == 5 * activation
    assert total(parts, "gradients of the stage") == 2 * 5 * activation
    assert total(parts, "gradients of shared") == 2 * (1 / 2) * 400 + 2 * (3 / 4) * 28
