"""One rank of ``megadape slurm check``: it looks around, and says each thing that it finds as it finds it.

What is said goes to standard output, not into files: whether the folder can be written is one of the questions. A rank
that is stuck has said how far it came.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

from megadape.parallel.mesh import Place
from megadape.parallel.speed import all_reduce_speed
from megadape.slurm.hosts import expand_hosts

PARTS = ("python", "gpus", "folder", "rendezvous", "all-reduce")
"""What is looked at, in this order."""


def probe(folder: Path, gpus: int, seconds: float) -> Iterator[str]:
    """Findings of this rank, a line of JSON each; what fails is said, and ends it.

    Args:
        folder: that it must be able to write.
        gpus: that its node must have.
        seconds: allowed to each part that waits for others.
    """
    place = Place.from_environment()
    looks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()}, torch {torch.__version__}",
        "gpus": lambda: _look_at_gpus(gpus),
        "folder": lambda: _write(folder, place),
        "rendezvous": lambda: _join(place, seconds),
        "all-reduce": lambda: all_reduce_speed(place.world),
    }
    assert tuple(looks) == PARTS
    for part, look in looks.items():
        try:
            yield _say(part, good=True, words=look())
        except Exception as error:
            yield _say(part, good=False, words=f"{type(error).__name__}: {str(error).splitlines()[0]}")
            if part != "folder":  # what follows does not need it
                return
    dist.destroy_process_group()


def _say(part: str, *, good: bool, words: str) -> str:
    names = {"node": os.environ.get("SLURMD_NODENAME", socket.gethostname()), "rank": Place.from_environment().rank}
    return json.dumps({**names, "part": part, "good": good, "words": words})


def _look_at_gpus(wanted: int) -> str:
    found = torch.cuda.device_count()
    if found < wanted:
        raise RuntimeError(f"sees {found} of {wanted} GPUs")
    return f"{wanted} x {torch.cuda.get_device_name()}" if wanted else "none wanted"


def _write(folder: Path, place: Place) -> str:
    file = folder / f".probe-{os.environ.get('SLURM_JOB_ID', '')}-{place.rank}"
    file.write_text("probe")
    file.unlink()
    return "written"


def _join(place: Place, seconds: float) -> str:
    """Meet all others; whoever cannot reach the first rank fails here alone, the others in the all-reduce."""
    limit = timedelta(seconds=seconds)
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    address, port = expand_hosts(os.environ["SLURM_JOB_NODELIST"])[0], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, place.world, place.rank == 0, limit, wait_for_workers=False)  # type: ignore[attr-defined]
    store.set(f"here/{place.rank}", "yes")
    if place.rank == 0:
        absent = _absent(lambda rank: store.check([f"here/{rank}"]), place.world, seconds)
        if absent:
            raise RuntimeError(f"ranks that never came: {', '.join(map(str, absent))}")
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.world,
        timeout=limit,
    )
    return f"{address}:{port}"


def _absent(came: Callable[[int], bool], world: int, seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while True:
        absent = [rank for rank in range(world) if not came(rank)]
        if not absent or time.monotonic() > deadline:
            return absent
        time.sleep(0.1)
