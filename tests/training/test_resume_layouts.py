"""A checkpoint of any layout serves any other.

One process trains, saves and trains on. Every layout takes that checkpoint up, writes it again bit for bit, and goes on
with the same losses: so what any layout writes, any other goes on from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layout_worlds import BATCH, LENGTH, architecture, factorings, training
from torch import Tensor, distributed

from megadape.checkpoint import CheckpointFolder, CheckpointWriter
from megadape.checkpoint.settings import CheckpointSettings
from megadape.model import build_gpt
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.settings import ParallelSettings
from megadape.parallel.sharding import Sharding
from megadape.parameters import parameter_table
from megadape.testing import run_distributed
from megadape.training.engines.base import Engine, EngineState, build_engine
from megadape.training.pipeline.placement import part_of

pytestmark = [pytest.mark.usefixtures("all_cores"), pytest.mark.timeout(900)]

MODEL, BEFORE, AFTER = ("t5", "dape"), 5, 5
Case = tuple[tuple[int, int, int], str, dict[str, Any]]


def start(mesh: Mesh, case: Case) -> tuple[Engine, dict[str, Any]]:
    (_, pp, _), engine, more = case
    parallel = ParallelSettings.model_validate({"tp": mesh.tp.size, "pp": pp, **more})
    part = part_of(architecture(MODEL), parallel, mesh.pp.rank)
    model = build_gpt(architecture(MODEL), seed=3, sharding=Sharding(mesh.tp), part=part).train()
    table = parameter_table(model)
    micro = BATCH // (mesh.data_ranks * max(2, pp))
    return build_engine(model, training(engine, micro), parallel, mesh), table


def losses_of(engine: Engine, mesh: Mesh, pp: int, steps: range) -> list[float]:
    losses, micro = [], BATCH // (mesh.data_ranks * max(2, pp))
    for step in steps:
        batch = torch.randint(64, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(step))
        own = list(batch.view(-1, mesh.data_ranks, micro, LENGTH + 1)[:, mesh.data_rank])
        losses.append(engine.train_step(own, 1e-3).loss)
    return losses


def save(engine: Engine, table: dict[str, Any], mesh: Mesh, folder: Path) -> None:
    writer, state = CheckpointWriter(folder, mesh, CheckpointSettings()), engine.state()
    writer.take_over()
    writer.save(BEFORE, state.parameters, state.moments, table, {"updates": state.updates})


def go_on(cases: list[Case], origin: Path, folder: Path) -> list[list[float]]:
    """Each layout's losses from the checkpoint; what each writes of it lies in a folder of its own."""
    found, place = [], Place(distributed.get_rank(), distributed.get_world_size())
    device = torch.device("cpu")
    meshes = {(tp, pp): make_mesh(place, device, tp=tp, pp=pp) for tp, pp in dict.fromkeys(c[0][:2] for c in cases)}
    for number, case in enumerate(cases):
        mesh = meshes[case[0][:2]]
        engine, table = start(mesh, case)
        checkpoint = CheckpointFolder(origin).newest()
        assert checkpoint is not None
        parameters, moments = checkpoint.read_own(table)
        engine.load_state(EngineState(checkpoint.state()["updates"], parameters, moments))
        save(engine, table, mesh, folder / str(number))
        found.append(losses_of(engine, mesh, case[0][1], range(BEFORE, BEFORE + AFTER)))
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = CheckpointFolder(folder).newest()
    assert checkpoint is not None
    return {**checkpoint.tensors("model"), **checkpoint.tensors("optimizer")}


def all_cases(ranks: int) -> list[Case]:
    cases: list[Case] = []
    for layout in factorings(ranks):
        cases.append((layout, "torch", {}))
        stages = range(4) if layout[1] == 1 and (ranks < 4 or layout == (2, 1, 2)) else [1]
        cases += [(layout, "deepspeed", {"zero": zero}) for zero in stages]
        if layout[1] == 2:
            cases += [(layout, "deepspeed", {"zero": 1, "schedule": each}) for each in ("interleaved", "zero_bubble")]
    return cases


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    mesh, case = Mesh(Place(), torch.device("cpu")), ((1, 1, 1), "torch", {})
    engine, table = start(mesh, case)
    losses_of(engine, mesh, 1, range(BEFORE))
    folder = tmp_path_factory.mktemp("origin")
    save(engine, table, mesh, folder)
    return folder, losses_of(engine, mesh, 1, range(BEFORE, BEFORE + AFTER))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_layout_goes_on_from_a_checkpoint_of_any(
    ranks: int, uninterrupted: tuple[Path, list[float]], tmp_path: Path
) -> None:
    origin, wanted = uninterrupted
    cases, kept = all_cases(ranks), tensors(origin)
    results = run_distributed(ranks, go_on, cases, origin, tmp_path, timeout=800)
    for number, case in enumerate(cases):
        for losses in results:
            assert losses[number] == pytest.approx(wanted, rel=1e-5), case
        written = tensors(tmp_path / str(number))
        assert written.keys() == kept.keys(), case
        different = [name for name, value in kept.items() if not torch.equal(value, written[name])]
        assert not different, f"{case}: {different}"
