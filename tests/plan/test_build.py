"""Real modules of any rank of any world, counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from megadape.errors import ConfigurationError
from megadape.model import GPT, Architecture, count_parameters
from megadape.parallel.group import Group
from megadape.parallel.mesh import Place, make_mesh
from megadape.parallel.sharding import Sharding
from megadape.parameters import parameter_table
from megadape.plan.build import build_layout, count_together, default_ranks, fake_world
from megadape.plan.cluster import Cluster
from megadape.plan.layouts import Layout, Schedule, settings_for
from megadape.plan.run import PlannedRun, load_planned

CONFIGS = Path(__file__).parents[2] / "configs"
CLUSTER = Cluster(nodes=128, gpus_per_node=8, gpu_memory=80)


def load(positions: str = "dape_kerple", *overrides: str) -> tuple[PlannedRun, Architecture]:
    files = [CONFIGS / "models/350M.yaml", CONFIGS / f"positions/{positions}.yaml"]
    return load_planned(files, ["training.global_batch_size=1024", *overrides])


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zero_bubble"])
def test_350m_over_1024_ranks(schedule: Schedule) -> None:
    run, architecture = load()
    layout = Layout(8, 4, 32, 1, True, schedule)
    build = build_layout(settings_for(run, layout), architecture, CLUSTER, layout, [0, 5, 1023])
    with torch.device("meta"):
        whole = count_parameters(GPT(architecture))
    assert build.models == 32
    assert build.parameters == build.expected == whole == 405_372_800
    places = [(rank.rank, rank.stage, rank.data_rank, rank.tensor_rank) for rank in build.ranks]
    assert places == [(0, 0, 0, 0), (5, 0, 0, 5), (1023, 3, 31, 7)]
    assert not dist.is_initialized()


@pytest.mark.parametrize("positions", ["dape_t5", "dape_fire", "learned", "rope"])
def test_what_stages_and_ranks_share_counts_once(positions: str) -> None:
    run, architecture = load(positions, "model.tied_embeddings=true", "model.num_layers=4")
    layout = Layout(4, 4, 1, 1)
    build = build_layout(settings_for(run, layout), architecture, Cluster(1, 16, 80), layout)
    assert build.parameters == build.expected


def test_default_ranks_are_the_ends_of_each_stage() -> None:
    assert default_ranks(Layout(2, 2, 3)) == [0, 1, 6, 7, 11]
    assert default_ranks(Layout(1, 1, 1)) == [0]


def test_a_rank_outside_the_world() -> None:
    run, architecture = load()
    layout = Layout(1, 1, 2)
    with pytest.raises(ConfigurationError, match=r"--ranks: 2 is not one of the 2 ranks 0 \.\. 1"):
        build_layout(run, architecture, CLUSTER, layout, [2])


def test_a_missing_part_and_a_doubled_one_are_noticed() -> None:
    architecture = load("rope", "model.num_layers=1")[1]
    with torch.device("meta"):
        whole = GPT(architecture)
        first, second = (GPT(architecture, sharding=Sharding(Group((0, 1), rank))) for rank in (0, 1))
    table = parameter_table(whole)
    assert count_together([first, second], table) == count_parameters(whole)
    with pytest.raises(AssertionError, match=r"parts .* of"):
        count_together([first, first], table)
    del second.head, first.head
    first.head = second.head = None
    with pytest.raises(AssertionError, match=r"parts differ from the model in {'head\.weight'}"):
        count_together([first, second], table)


def test_the_mesh_of_a_fake_world_is_the_real_one() -> None:
    place = Place(rank=777, world=1024, local_rank=1)
    with fake_world(place):
        mesh = make_mesh(place, torch.device("cpu"), tp=8, pp=4)
    assert mesh.tp.ranks == tuple(range(776, 784))
    assert mesh.pp.ranks == (9, 265, 521, 777)
    assert len(mesh.dp.ranks) == 32
    assert mesh.dp.ranks[:2] == (769, 777)
