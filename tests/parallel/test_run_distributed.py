"""The test world itself: results in rank order, tracebacks of every rank, no hang when one dies or waits."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from torch import distributed as dist

from megadape.errors import ConfigurationError
from megadape.parallel.mesh import Place, open_mesh
from megadape.testing import RankFailed, run_distributed


def reduce_and_report(factor: int) -> tuple[int, float, list[object]]:
    with open_mesh(Place.from_environment()) as mesh:
        mean = mesh.mean_over_data(torch.tensor([float(mesh.rank * factor)]))
        return mesh.rank, mean.item(), mesh.gather(f"rank {mesh.rank}")


def fail_on(rank: int) -> None:
    if dist.get_rank() == rank:
        raise ValueError("this rank gives up")
    dist.barrier()


def die_on(rank: int) -> None:
    if dist.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def sleep_on(rank: int) -> None:
    if dist.get_rank() == rank:
        time.sleep(1000)


def test_results_come_in_rank_order() -> None:
    names = ["rank 0", "rank 1"]
    assert run_distributed(2, reduce_and_report, 10) == [(0, 5.0, names), (1, 5.0, names)]


def test_the_traceback_of_a_failing_rank_is_shown() -> None:
    with pytest.raises(RankFailed, match="rank 1") as failure:
        run_distributed(2, fail_on, 1)
    assert "this rank gives up" in str(failure.value)


def test_a_killed_rank_is_named() -> None:
    with pytest.raises(RankFailed, match=r"rank 0 ---\ndied with exit code -9"):
        run_distributed(2, die_on, 0)


def test_a_rank_that_does_not_end_is_stopped() -> None:
    with pytest.raises(RankFailed, match="did not end in time"):
        run_distributed(2, sleep_on, 1, timeout=8)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Place(3, 4, 1)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2"}, Place(2, 8, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Place(1, 2, 0)),
    ],
)
def test_the_place_is_read_from_any_launcher(environment: dict[str, str], place: Place) -> None:
    assert Place.from_environment(environment) == place


def test_a_launcher_that_sets_no_number_is_named() -> None:
    with pytest.raises(ConfigurationError, match="RANK"):
        Place.from_environment({"RANK": "x", "WORLD_SIZE": "2"})
