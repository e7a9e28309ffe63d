"""A small model's state as any rank of any layout holds it: declared parameters, and moments drawn from the step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megadape.checkpoint.reading import Checkpoint
from megadape.checkpoint.settings import CheckpointSettings
from megadape.checkpoint.writer import CheckpointWriter, Saved
from megadape.parallel.group import ALONE, Group
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.parameters import DeclaredModule, ParameterSpec, constant, parameter_table, seed_of

LAYERS, WIDTH, VOCABULARY, HEADS = 4, 8, 24, 4
MOMENTS = ("exp_avg", "exp_avg_sq")
Layout = tuple[int, int, int]
"""tp, pp, dp."""

LAYOUTS: dict[int, list[Layout]] = {
    1: [(1, 1, 1)],
    2: [(2, 1, 1), (1, 2, 1), (1, 1, 2)],
    4: [(4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 4, 1), (1, 2, 2), (1, 1, 4)],
}
"""Every factoring of the ranks that the tests use."""


class Layer(DeclaredModule):
    """Every way of cutting there is: along any axis, in blocks, not at all."""

    def __init__(self, tp: Group) -> None:
        super().__init__()
        sharding = Sharding(tp)
        width, heads = sharding.own_part(WIDTH, "width"), sharding.own_part(HEADS, "heads")
        self.declare("qkv", (3, WIDTH, WIDTH), constant(0.0), shard_axis=1, own=width)
        self.declare("output", (WIDTH, WIDTH), constant(0.0), shard_axis=1, own=width)
        self.declare("w1", (6, 2 * HEADS), constant(0.0), shard_axis=1, own=heads, blocks=2)
        self.declare("scale", (), constant(0.0))
        self.declare("norm", (WIDTH,), constant(0.0), decay=False)


class Table(DeclaredModule):
    """A token embedding, or what all stages share."""

    def __init__(self, tp: Group, rows: int, sharded: bool) -> None:
        super().__init__()
        own = Sharding(tp).own_part(rows, "rows") if sharded else slice(None)
        self.declare("weight", (rows, WIDTH), constant(0.0), shard_axis=0 if sharded else None, own=own)


class Model(nn.Module):
    """What one rank holds: its stage's layers, the embedding on both ends, a table on every stage."""

    def __init__(self, tp: Group = ALONE, stage: int = 0, stages: int = 1) -> None:
        super().__init__()
        depth = LAYERS // stages
        own = range(stage * depth, (stage + 1) * depth)
        self.blocks = nn.ModuleDict({str(layer): Layer(tp) for layer in own})
        self.shared = Table(tp, 5, sharded=False)
        self.embedding = Table(tp, VOCABULARY, sharded=True) if stage in (0, stages - 1) else None


def table_of(mesh: Mesh) -> dict[str, ParameterSpec]:
    """The parameter table of this rank."""
    return parameter_table(Model(mesh.tp, mesh.pp.rank, mesh.pp.size))


def full_tensor(name: str, spec: ParameterSpec, step: int) -> Tensor:
    """What a tensor is after so many steps; names of moments are MOMENT/NAME."""
    return torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed_of(step, name)))


def own_state(table: Mapping[str, ParameterSpec], step: int) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A rank's parameters and moments."""

    def own(name: str, spec: ParameterSpec) -> Tensor:
        return spec.take_own(full_tensor(name, spec, step)).clone()

    parameters = {name: own(name, spec) for name, spec in table.items()}
    return parameters, {m: {name: own(f"{m}/{name}", spec) for name, spec in table.items()} for m in MOMENTS}


def check_own(checkpoint: Checkpoint, table: Mapping[str, ParameterSpec]) -> None:
    """What a rank reads is, bit for bit, its part of what was saved."""
    parameters, moments = checkpoint.read_own(table)
    wanted, wanted_moments = own_state(table, checkpoint.step)
    assert moments.keys() == wanted_moments.keys()
    for read, own in ((parameters, wanted), *((moments[m], wanted_moments[m]) for m in MOMENTS)):
        assert read.keys() == own.keys()
        for name, tensor in own.items():
            assert torch.equal(read[name], tensor), name
    assert checkpoint.state() == {"step": checkpoint.step}


def alone() -> Mesh:
    """A run of one rank."""
    return Mesh(Place(), torch.device("cpu"))


def mesh_of(layout: Layout) -> Mesh:
    """The mesh of this world."""
    return make_mesh(Place.from_environment(), torch.device("cpu"), layout[0], layout[1])


def open_writer(folder: Path, mesh: Mesh, **settings: Any) -> CheckpointWriter:
    """A writer that has not taken over yet."""
    return CheckpointWriter(folder, mesh, CheckpointSettings.model_validate(settings))


def save_step(writer: CheckpointWriter, step: int) -> Saved | None:
    """Save what the state is after so many steps."""
    table = table_of(writer.mesh)
    return writer.save(step, *own_state(table, step), table, {"step": step})


def save_steps(
    folder: Path, steps: Iterable[int], layout: Layout | None, settings: dict[str, Any], fault: str = ""
) -> list[str]:
    """Take over, save some steps, finish; the names of what is there. For a world, or a process of its own."""
    if fault:
        os.environ["MEGADAPE_FAULT"] = fault
    writer = open_writer(folder, mesh_of(layout) if layout else alone(), **settings)
    checkpoint = writer.take_over()
    if checkpoint:
        check_own(checkpoint, table_of(writer.mesh))
    for step in steps:
        save_step(writer, step)
    writer.finish()
    return sorted(path.name for path in folder.iterdir())
