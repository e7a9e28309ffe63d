"""Run folders below other folders, as a table and as JSON."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megadape.console import number
from megadape.errors import MonitoringError
from megadape.monitoring.standing import STATES, Standing, look_at
from megadape.training.supervision.durations import format_duration
from megadape.training.supervision.heartbeat import FOLDER as HEARTBEATS
from megadape.training.supervision.outcome import FILE as OUTCOME

MARKS = (OUTCOME, "metrics.jsonl", "provenance.json", "checkpoints", HEARTBEATS)
"""A folder with one of them is a run's."""

COLUMNS = ("run", "state", "step", "loss", "validation", "tokens/s", "left", "changed", "why")


def list_runs(folders: Sequence[Path]) -> list[Standing]:
    """All runs in these folders or below them, those that want to be seen first.

    Raises:
        MonitoringError: a folder is not there, or holds no run.
    """
    runs: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise MonitoringError(f"{folder} is no folder: name the folder of a run, or one that holds some")
        runs |= dict.fromkeys(find_runs(folder))
    if not runs:
        names = ", ".join(map(str, folders))
        raise MonitoringError(f"there is no run in {names}: megadape train --set run_dir=... makes one")
    return sorted(map(look_at, runs), key=lambda run: (STATES.index(run.state), str(run.run_dir)))


def find_runs(folder: Path) -> Iterator[Path]:
    """Run folders, this one or those below it; what a run holds is not searched, nor what cannot be read."""
    if is_run(folder):
        yield folder
        return
    try:
        below = sorted(
            (entry for entry in os.scandir(folder) if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    except OSError:
        return
    for entry in below:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from find_runs(path)
        elif entry.is_symlink() and path.is_dir() and is_run(path):  # not further: links may go round
            yield path


def is_run(folder: Path) -> bool:
    """Whether a run has written into a folder."""
    try:
        return any((folder / mark).exists() for mark in MARKS)
    except OSError:
        return False


def table_rows(runs: Iterable[Standing]) -> list[list[str]]:
    """One row a run, under ``COLUMNS``."""
    return [
        [
            str(run.run_dir),
            run.state,
            f"{run.step:,}/{'?' if run.steps is None else format(run.steps, ',')}",
            number(run.numbers.get("loss"), ".4f"),
            number(run.numbers.get("validation_loss"), ".4f"),
            number(run.numbers.get("tokens_per_second"), ",.0f"),
            "-" if run.seconds_left is None else format_duration(run.seconds_left),
            format_age(run.age),
            run.reason,
        ]
        for run in runs
    ]


def summary(runs: Sequence[Standing]) -> str:
    """How many there are of each state."""
    counts = Counter(run.state for run in runs)
    return f"{len(runs)} run{'s' * (len(runs) > 1)}: " + ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])


def as_json(run: Standing) -> dict[str, Any]:
    """For programs: all that is known, numbers beside the rest."""
    content = asdict(run)
    numbers = content.pop("numbers")
    age = run.age if math.isfinite(run.age) else None
    return {**content, "run_dir": str(run.run_dir), "age": age, **numbers}


def format_age(seconds: float) -> str:
    """12s ago, 3h ago: the largest unit."""
    if not math.isfinite(seconds):
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit} ago"
    return f"{seconds:.0f}s ago"
