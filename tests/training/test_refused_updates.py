"""An update that is refused leaves no trace, in any engine: the run goes on as one that never saw its batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_admission import architecture, differing

from megadape.model import build_gpt
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.settings import ParallelSettings
from megadape.testing import run_distributed
from megadape.training.engines.base import EngineState, build_engine
from megadape.training.pipeline.placement import part_of
from megadape.training.settings import TrainingSettings

pytestmark = [pytest.mark.usefixtures("all_cores"), pytest.mark.timeout(900)]

REFUSED = 1
Case = tuple[str, dict[str, Any]]
CASES: dict[int, list[Case]] = {
    1: [("torch", {}), *(("deepspeed", {"zero": zero}) for zero in range(4))],
    2: [
        ("torch", {"pp": 2}),
        ("deepspeed", {"zero": 1, "pp": 2, "schedule": "1f1b"}),
        ("deepspeed", {"zero": 1, "pp": 2, "schedule": "zero_bubble"}),
    ],
}
"""By pipeline stages, of two ranks."""
Seen = dict[int, tuple[float, float]]


def train(case: Case, mesh: Mesh, steps: list[int], *, refuse: bool) -> tuple[EngineState, Seen]:
    """The state after some steps, and what was asked about at each."""
    training = TrainingSettings.model_validate(
        {
            "steps": 4,
            "sequence_length": 16,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "engine": case[0],
            "optimizer": {"clip": 0.1},
        }
    )
    parallel = ParallelSettings.model_validate(case[1])
    part = part_of(architecture(), parallel, mesh.pp.rank)
    engine, seen = build_engine(build_gpt(architecture(), seed=1, part=part), training, parallel, mesh), {}
    for step in steps:
        generator = torch.Generator().manual_seed(10 * step + mesh.data_rank)
        batches = [torch.randint(0, 64, (2, 17), generator=generator) for _ in range(4 // mesh.data_ranks)]

        def admit(loss: float, norm: float, step: int = step) -> bool:
            seen[step] = loss, norm
            return not (refuse and step == REFUSED)

        result = engine.train_step(batches, 1e-2 * (step + 1), admit)
        assert result.skipped == (refuse and step == REFUSED)
        assert (result.loss, result.grad_norm) == seen[step]
    return engine.state(), seen


def compare(stages: int) -> list[tuple[list[str], bool, tuple[float, float]]]:
    """Of each case: what differs from a run without that step, whether anything does from one that made it; loss and
    norm of the refused step."""
    mesh, found = make_mesh(Place.from_environment(), torch.device("cpu"), 1, stages), []
    for case in CASES[stages]:
        refusing, asked = train(case, mesh, [0, 1, 2, 3], refuse=True)
        without, _ = train(case, mesh, [0, 2, 3], refuse=False)
        making, seen = train(case, mesh, [0, 1, 2, 3], refuse=False)
        assert asked[REFUSED] == seen[REFUSED]
        found.append((differing(refusing, without), bool(differing(refusing, making)), asked[REFUSED]))
    return found


def test_a_refused_update_leaves_no_trace() -> None:
    for stages, cases in CASES.items():
        ranks = run_distributed(2, compare, stages)
        for case, *by_rank in zip(cases, *ranks, strict=True):
            for differences, matters, _ in by_rank:
                assert differences == [], case
                assert matters, case
            assert by_rank[0][2] == by_rank[1][2], case
