"""Stacks of all ranks, without a collective: ranks ask each other by a file.

run_dir/stacks/REQUEST         what was found; every rank that sees it shows its stacks and ends
run_dir/stacks/rank-00003.txt  the stacks of all threads of a rank
"""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

from megadape.training.supervision.json_files import read_json, replace_json

STANDARD_ERROR = 2
"""By its number: the main thread may hold the locks of Python's own streams."""

FOLDER, REQUEST = "stacks", "REQUEST"


def say(text: str) -> None:
    """One line on standard error."""
    os.write(STANDARD_ERROR, f"megadape: {text}\n".encode())


def show_stacks(run_dir: Path, rank: int, where: str, finding: str) -> None:
    """The stacks of all threads of this process, on standard error and in the rank's file.

    Args:
        run_dir: folder of the run.
        rank: of this process.
        where: it stands, for the heading.
        finding: why they are shown.
    """
    heading = f"--- stacks of rank {rank} at {where} ---"
    say(f"{finding}\n{heading}")
    faulthandler.dump_traceback(file=STANDARD_ERROR)
    path = run_dir / FOLDER / f"rank-{rank:05d}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write(f"{finding}\n{heading}\n")
            file.flush()
            faulthandler.dump_traceback(file=file)
    except OSError as error:
        say(f"stacks cannot be written to {path}: {error.strerror}")


def ask_for_stacks(run_dir: Path, start: str, finding: str) -> None:
    """Make all ranks of this start of the run show theirs, unless some rank has asked already."""
    if asked_for_stacks(run_dir, start) is not None:
        return
    path = run_dir / FOLDER / REQUEST
    try:
        replace_json(path, {"start": start, "finding": finding})
    except OSError as error:
        say(f"other ranks cannot be asked for their stacks by {path}: {error.strerror}")


def asked_for_stacks(run_dir: Path, start: str) -> str | None:
    """What some rank of this start of the run has found, if any has."""
    request = read_json(run_dir / FOLDER / REQUEST)
    return str(request["finding"]) if request is not None and request.get("start") == start else None
