"""A proof that a layout assembles: the real modules of its ranks, in one process, at any number of ranks.

Torch's fake process group takes this process for any rank of any world; the mesh is made over it by the code that
training runs, and the model is built on the meta device, where parameters have shapes and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import distributed as dist

from megadape.config.run import RunSettings
from megadape.errors import ConfigurationError
from megadape.model import GPT, Architecture, Part, count_parameters
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.parameters import ParameterSpec, parameter_table
from megadape.plan.cluster import Cluster
from megadape.plan.layouts import Layout
from megadape.plan.stages import parts_of
from megadape.training.optimizer import build_optimizer

META = torch.device("meta")


@dataclass(frozen=True)
class BuiltRank:
    """One rank, as it was built."""

    rank: int
    stage: int
    data_rank: int
    tensor_rank: int
    layers: tuple[int, ...]
    parameters: int
    """Numbers that it holds."""


@dataclass(frozen=True)
class Build:
    """What was built and counted."""

    ranks: tuple[BuiltRank, ...]
    """The chosen ones."""

    models: int
    """Parts of one model that were built: stages x tensor-parallel ranks."""

    parameters: int
    """Numbers of all these parts together, each that several ranks hold alike counted once."""

    expected: int
    """Numbers of the model in a single process."""


def build_layout(
    run: RunSettings, architecture: Architecture, cluster: Cluster, layout: Layout, ranks: Sequence[int] | None = None
) -> Build:
    """Build the ranks of a layout, and count the parameters of one whole pipeline of them.

    Args:
        run: settings with the layout in them.
        architecture: theirs, with the vocabulary known.
        cluster: says which GPU of its node a rank has.
        layout: the ranks.
        ranks: to build; default first and last tensor-parallel rank of each stage's first data-parallel share, and the
            last rank of all.

    Raises:
        ConfigurationError: a rank is not one of the world, or a module cannot be built.
        AssertionError: parts do not make the whole model: a bug.
    """
    chosen = default_ranks(layout) if ranks is None else ranks
    for rank in chosen:
        if not 0 <= rank < layout.ranks:
            raise ConfigurationError(f"--ranks: {rank} is not one of the {layout.ranks} ranks 0 .. {layout.ranks - 1}")
    of_model = [_rank(layout, stage, part) for stage in range(layout.pp) for part in range(layout.tp)]
    parts = parts_of(architecture, run.parallel)
    made = {rank: _build(run, architecture, cluster, layout, rank, parts) for rank in {*chosen, *of_model}}
    with META:
        whole = GPT(architecture)
    counted = count_together([made[rank][1] for rank in of_model], parameter_table(whole))
    built = tuple(_describe(*made[rank]) for rank in chosen)
    return Build(built, len(of_model), counted, count_parameters(whole))


def default_ranks(layout: Layout) -> list[int]:
    """First and last tensor-parallel rank of each stage, and the last rank of all."""
    ends = {_rank(layout, stage, part) for stage in range(layout.pp) for part in (0, layout.tp - 1)}
    return sorted(ends | {layout.ranks - 1})


def _rank(layout: Layout, stage: int, part: int) -> int:
    return stage * layout.dp * layout.tp + part


def _build(
    run: RunSettings,
    architecture: Architecture,
    cluster: Cluster,
    layout: Layout,
    rank: int,
    parts: Sequence[Part],
) -> tuple[Mesh, GPT]:
    """Mesh and module of a rank, with an optimizer around it once, as training makes them."""
    parallel = run.parallel
    place = Place(rank, layout.ranks, rank % cluster.gpus_per_node)
    with fake_world(place):
        mesh = make_mesh(place, META, parallel.tp, parallel.pp)
        with META:
            sharding = Sharding(mesh.tp, parallel.sequence_parallel, parallel.mixing)
            model = GPT(architecture, sharding=sharding, part=parts[mesh.pp.rank])
            build_optimizer(model, run.training.optimizer)
    return mesh, model


@contextmanager
def fake_world(place: Place) -> Iterator[None]:
    """A process group in which this process is one of many ranks, and the others do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized(), "ranks are built outside any process group"
    dist.init_process_group("fake", rank=place.rank, world_size=place.world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _describe(mesh: Mesh, model: GPT) -> BuiltRank:
    return BuiltRank(mesh.rank, mesh.pp.rank, mesh.dp.rank, mesh.tp.rank, model.part.layers, count_parameters(model))


def count_together(models: Sequence[GPT], whole: dict[str, ParameterSpec]) -> int:
    """Numbers of all parts of a model together, what several hold alike counted once.

    Raises:
        AssertionError: a parameter is missing, or its parts do not lie side by side.
    """
    covered: dict[str, set[tuple[int | None, int | None]]] = {}
    total = 0
    for model in models:
        parameters = dict(model.named_parameters())
        for name, spec in parameter_table(model).items():
            own = (spec.own.start, spec.own.stop) if spec.shard_axis is not None else (None, None)
            if own not in covered.setdefault(name, set()):
                covered[name].add(own)
                total += parameters[name].numel()
    assert covered.keys() == whole.keys(), f"parts differ from the model in {covered.keys() ^ whole.keys()}"
    for name, parts in covered.items():
        _check_cover(name, whole[name], parts)
    assert total == sum(prod(spec.shape) for spec in whole.values())
    return total


def _check_cover(name: str, spec: ParameterSpec, parts: set[tuple[int | None, int | None]]) -> None:
    """Replicated: one part. Sharded: parts one after another, from the first number of the axis to the last."""
    if spec.shard_axis is None:
        assert parts == {(None, None)}, f"{name} is replicated, but its parts are {parts}"
        return
    size = spec.shape[spec.shard_axis] // spec.blocks
    bounds = sorted((start or 0, size if stop is None else stop) for start, stop in parts)
    edges = [bounds[0][0], *(stop for _, stop in bounds)]
    side_by_side = all(start == edge for (start, _), edge in zip(bounds, edges, strict=False))
    assert (edges[0], edges[-1], side_by_side) == (0, size, True), f"{name}: parts {bounds} of {size}"
