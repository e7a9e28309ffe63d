"""One rank of a run in which something goes wrong on rank 1; started by test_failure.py.

failing_rank.py HOW TIMEOUT_SECONDS
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta

import torch

from megadape.errors import DataError, MegadapeError
from megadape.parallel.failure import ending_together
from megadape.parallel.mesh import Mesh, Place, open_mesh


def break_off() -> None:
    raise ZeroDivisionError("a bug on one rank")


def bad_data() -> None:
    raise DataError("document 7 is damaged")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(600)


def leave() -> None:
    raise SystemExit(5)


MISHAPS = {"bug": break_off, "data": bad_data, "kill": die, "hang": hang}


def work(mesh: Mesh, how: str) -> None:
    x = torch.ones(4)
    for step in range(10_000):
        if step == 3 and mesh.rank == 1 and how in MISHAPS:
            MISHAPS[how]()
        if step == 3 and how == "leave":
            leave()
        mesh.world.all_reduce(x)
        mesh.dp.all_reduce(x)


def main() -> None:
    how, timeout = sys.argv[1], timedelta(seconds=float(sys.argv[2]))
    place = Place.from_environment()
    try:
        with ending_together(place.rank, place.world), open_mesh(place, timeout=timeout) as mesh:
            work(mesh, how)
    except MegadapeError as error:
        # as the command line does
        print(f"megadape: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
