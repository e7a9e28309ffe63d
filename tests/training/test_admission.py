"""A refused update changes nothing: the run goes on as one that never came to that step, bit for bit."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch

from megadape.errors import TrainingError
from megadape.model import Architecture, build_gpt
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.settings import ParallelSettings
from megadape.testing import run_distributed
from megadape.training.engines.admission import ZeroGate
from megadape.training.engines.base import EngineState, build_engine
from megadape.training.pipeline.placement import part_of
from megadape.training.settings import TrainingSettings

REFUSED = 1
Case = dict[str, Any]

CASES: dict[int, list[Case]] = {
    1: [{"zero": 1}, {"zero": 2}, {"zero": 3}],
    2: [{"zero": 1, "pp": 2, "schedule": "1f1b"}, {"zero": 1, "pp": 2, "schedule": "zero_bubble"}],
}
"""Stages -> parallel settings, on two ranks."""


def architecture() -> Architecture:
    return Architecture.model_validate(
        {
            "model": {"num_layers": 4, "hidden_size": 32, "num_heads": 4, "vocab_size": 64},
            "positions": {"kind": "kerple_log"},
            "mixer": {"kind": "dape"},
            "training_length": 16,
        }
    )


def train(case: Case, mesh: Mesh, steps: list[int], refuse: bool) -> tuple[EngineState, dict[int, tuple[float, float]]]:
    """The end state, and for each step what the gate saw and, where it can, the loss at that moment."""
    settings = TrainingSettings.model_validate(
        {
            "steps": 4,
            "sequence_length": 16,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "engine": "deepspeed",
            "optimizer": {"clip": 0.1},
            # DeepSpeed never partitions parameters this small unless told to
            "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
        }
    )
    parallel = ParallelSettings.model_validate(case)
    model = build_gpt(architecture(), seed=1, part=part_of(architecture(), parallel, mesh.pp.rank))
    engine: Any = build_engine(model, settings, parallel, mesh)
    gate, seen = ZeroGate(engine.engine.optimizer, parallel.zero), {}
    for step in steps:
        generator = torch.Generator().manual_seed(10 * step + mesh.data_rank)
        batches = [torch.randint(0, 64, (2, 17), generator=generator) for _ in range(4 // mesh.data_ranks)]

        def admit(norm: float, step: int = step) -> bool:
            loss = engine.engine._aggregate_total_loss() if case.get("schedule") == "1f1b" else math.nan
            seen[step] = float(loss), norm
            return not (refuse and step == REFUSED)

        gate.ask(admit)
        # an engine that knows nothing of the gate takes the refusal for a gradient that is not finite
        with contextlib.suppress(TrainingError):
            result = engine.train_step(batches, 1e-2 * (step + 1))
            assert math.isnan(seen[step][0]) or seen[step][0] == result.loss
        assert gate.refused == (refuse and step == REFUSED)
        assert gate.norm == seen[step][1] > 0
    return engine.state(), seen


def differing(one: EngineState, other: EngineState) -> list[str]:
    tensors = {"": (one.parameters, other.parameters)} | {
        moment: (one.moments[moment], other.moments[moment]) for moment in one.moments
    }
    return [f"{moment}/{name}" for moment, (a, b) in tensors.items() for name in a if not torch.equal(a[name], b[name])]


def compare(pp: int) -> list[tuple[list[str], int, bool]]:
    """Case by case: what a refusal leaves different, what an update would, and whether norms were those of the same
    gradient."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"), 1, pp)
    results = []
    for case in CASES[pp]:
        refused, seen = train(case, mesh, [0, 1, 2, 3], refuse=True)
        without, _ = train(case, mesh, [0, 2, 3], refuse=False)
        made, all_seen = train(case, mesh, [0, 1, 2, 3], refuse=False)
        alike = seen[REFUSED] == all_seen[REFUSED] or math.isnan(seen[REFUSED][0])
        results.append((differing(refused, without), len(differing(refused, made)), alike))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("pp", [1, 2])
def test_a_refused_update_of_zero_leaves_no_trace(pp: int) -> None:
    """About 15 seconds each."""
    for rank in run_distributed(2, compare, pp):
        for case, (left, changed, alike) in zip(CASES[pp], rank, strict=True):
            assert left == [], case
            assert changed > 0, case
            assert alike, case
