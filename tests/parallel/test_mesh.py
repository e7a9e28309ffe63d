"""Ranks lie as DeepSpeed's topology counts them, in every factoring; what cannot be split is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import product

import pytest
import torch
from torch import distributed as dist

from megadape.errors import ConfigurationError
from megadape.parallel.mesh import Mesh, Place, make_mesh, open_mesh

WORLD = 8
FACTORINGS = [(tp, pp) for tp, pp in product((1, 2, 4, 8), repeat=2) if tp * pp <= WORLD]
CPU = torch.device("cpu")


@contextmanager
def fake_rank(rank: int, world: int) -> Iterator[Place]:
    """This process as one rank of many, the others of which nobody started."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield Place(rank, world)
    finally:
        dist.destroy_process_group()


def meshes(tp: int, pp: int) -> list[Mesh]:
    """Of every rank."""
    made = []
    for rank in range(WORLD):
        with fake_rank(rank, WORLD) as place:
            made.append(make_mesh(place, CPU, tp, pp))
    return made


@pytest.mark.parametrize(("tp", "pp"), FACTORINGS)
def test_ranks_lie_as_deepspeed_counts_them(tp: int, pp: int) -> None:
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    topology = PipeModelDataParallelTopology(num_pp=pp, num_mp=tp, num_dp=WORLD // (tp * pp))
    lists = {axis: topology.get_axis_comm_lists(axis) for axis in ("model", "data", "pipe")}
    for rank, mesh in enumerate(meshes(tp, pp)):
        place = topology.get_coord(rank)
        assert (mesh.pp.rank, mesh.dp.rank, mesh.tp.rank) == (place.pipe, place.data, place.model)
        for axis, group in (("model", mesh.tp), ("data", mesh.dp), ("pipe", mesh.pp)):
            assert group.size == topology.get_dim(axis)
            # DeepSpeed lists no groups of an axis of one
            assert list(group.ranks) in lists[axis] or group.ranks == (rank,)
        assert mesh.model.ranks == tuple(sorted(topology.filter_match(data=place.data)))


@pytest.mark.parametrize(("tp", "pp"), FACTORINGS)
def test_groups_cut_the_world_into_parts(tp: int, pp: int) -> None:
    made = meshes(tp, pp)
    for axis in ("tp", "dp", "pp", "model", "ends", "world"):
        groups = [getattr(mesh, axis) for mesh in made]
        assert all(group.ranks[group.rank] == rank for rank, group in enumerate(groups))
        assert all(groups[other].ranks == group.ranks for group in groups for other in group.ranks)
    for mesh in made:
        first_and_last = {mesh.pp.ranks[0], mesh.pp.ranks[-1]}
        assert set(mesh.ends.ranks) == (first_and_last if mesh.rank in first_and_last else {mesh.rank})
        # what gather_full relies on: stage after stage, tensor-parallel ranks side by side
        assert mesh.model.rank == mesh.pp.rank * tp + mesh.tp.rank
    assert [mesh.is_first for mesh in made] == [True] + [False] * (WORLD - 1)
    assert sum(mesh.reports for mesh in made) == WORLD // (tp * pp)


@pytest.mark.parametrize(("world", "tp", "pp"), [(6, 4, 1), (1, 2, 1), (4, 2, 4), (8, 3, 1)])
def test_ranks_that_make_no_whole_models_are_refused(world: int, tp: int, pp: int) -> None:
    wanted = rf"{tp} x {pp} = {tp * pp} does not divide {world}: start a multiple of {tp * pp} ranks"
    with pytest.raises(ConfigurationError, match=wanted), open_mesh(Place(0, world), tp=tp, pp=pp):
        pass
    assert not dist.is_initialized()


def test_a_single_process_opens_a_group_only_if_asked_and_closes_it() -> None:
    with open_mesh(Place()) as mesh:
        assert not dist.is_initialized()
        assert mesh.world.size == mesh.tp.size == mesh.ends.size == 1
    with open_mesh(Place(), process_group=True, timeout=timedelta(seconds=20)) as mesh:
        assert dist.get_world_size() == 1
        assert mesh.gather("alone") == ["alone"]
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        # torchrun
        (
            {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"},
            Place(5, 8, 1),
        ),
        # srun
        ({"SLURM_PROCID": "6", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2", "SLURM_NODEID": "1"}, Place(6, 8, 2)),
        # the DeepSpeed launcher
        ({"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8", "CROSS_RANK": "0", "CROSS_SIZE": "2"}, Place(3, 8, 3)),
        # torchrun inside a job of one task
        (
            {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
            Place(1, 2, 1),
        ),
        # by hand, in a shell of a Slurm job
        ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "8"}, Place()),
    ],
)
def test_the_place_is_read_from_every_launcher(environment: dict[str, str], place: Place) -> None:
    assert Place.from_environment(environment) == place
