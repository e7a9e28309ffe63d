"""One cell of a study: train it, evaluate it, note that it is done. For any process: a local one, a rank of torchrun, a
task of a Slurm array.

run_dir/                an ordinary run folder, and in it
  cell.json             written last: what the cell's results were made with, so that it is not made again
  cell-failure.txt      why the newest try failed
  cell.lock             held while a process works on the cell
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from megadape.config import dump_yaml, load
from megadape.config.run import RunSettings
from megadape.errors import MegadapeError, TrainingError
from megadape.evaluation.output import write_whole
from megadape.evaluation.run import evaluate_all
from megadape.parallel.failure import ending_together
from megadape.parallel.mesh import Place, open_mesh
from megadape.studies.grid import Cell
from megadape.studies.local import Report
from megadape.training.identity import differences, flatten
from megadape.training.launch import train
from megadape.training.supervision.outcome import read_outcome

PATIENCE = timedelta(hours=1)
"""How long ranks that share an evaluation wait for one another."""

HELD_SECONDS = 5.0
"""For which a cell that is held is tried again: who looks whether it is held holds it for a moment, and a process whose
parent was killed needs one to notice."""

DONE_FILE, FAILURE_FILE, LOCK_FILE = "cell.json", "cell-failure.txt", "cell.lock"

IMMATERIAL = ("run_dir", "evaluation", "validation", "checkpoint", "parallel", "kernels", "stop", "watch", "logging")
"""Settings that do not decide what a run learns, or only within rounding: they may change while a study goes on."""


def run_cell(cell: Cell, report: Report) -> None:
    """Train and evaluate, from wherever an earlier try came to; nothing where it is done.

    Args:
        cell: which one.
        report: told (done, 1, a few words).

    Raises:
        MegadapeError: another process works on it, its folder holds another run, or it failed; the reason is kept.
    """
    if is_done(cell):
        return
    if Place.from_environment().rank:  # of the ranks that share a cell the first one answers for it
        train_and_evaluate(cell.run, report)
        return
    with holding(cell.run_dir):
        if is_done(cell):  # meanwhile
            return
        (cell.run_dir / FAILURE_FILE).unlink(missing_ok=True)
        check_same_run(cell)
        with keeping_failure(cell.run_dir):
            train_and_evaluate(cell.run, report)
        write_whole(cell.run_dir / DONE_FILE, json.dumps({"made_with": fingerprint(cell.run)}) + "\n")


def train_and_evaluate(run: RunSettings, report: Report) -> None:
    """Train to the last step, then evaluate in every way that the settings ask for.

    Raises:
        TrainingError: the run was stopped; it can go on.
    """
    if not is_trained(run):
        outcome = train(run, dump_yaml(run), StepReporter(report))
        if outcome.state != "done":
            raise TrainingError(f"{run.run_dir} was stopped ({outcome.reason}); the same command goes on")
    place = Place.from_environment()
    with ending_together(place.rank, place.world), open_mesh(place, timeout=PATIENCE) as mesh:
        evaluate_all(
            run.run_dir,
            run.data,
            run.evaluation,
            lambda done, total: report(0.5 + done / total / 2, 1.0, "evaluating"),
            mesh,
        )


class StepReporter:
    """Passes a run's steps on as progress, the first half of it; its sentences stay unsaid where many runs go on."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def message(self, text: str) -> None:
        """Not passed on."""

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        """One step of so many."""
        loss = "not finite" if row["loss"] is None else f"{row['loss']:.3f}"
        self._report(row["step"] / steps / 2, 1.0, f"step {row['step']}/{steps}, loss {loss}")


def is_trained(run: RunSettings) -> bool:
    """Whether a run has made all its steps."""
    outcome = read_outcome(run.run_dir)
    return outcome is not None and outcome.state == "done" and outcome.step >= run.training.steps


def is_done(cell: Cell) -> bool:
    """Whether a cell's results are there, made with its settings as they are."""
    with suppress(OSError, ValueError, AttributeError):
        return bool(json.loads((cell.run_dir / DONE_FILE).read_text()).get("made_with") == fingerprint(cell.run))
    return False


def fingerprint(run: RunSettings) -> str:
    """A digest of the settings that a cell's results depend on."""
    content = {"run": material(run), "evaluation": run.evaluation.model_dump(mode="json")}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def material(run: RunSettings) -> dict[str, Any]:
    """The settings that decide what a run learns, as dotted keys."""
    plain = run.model_dump(mode="json", exclude=set(IMMATERIAL))
    return flatten(plain)


def check_same_run(cell: Cell) -> None:
    """Refuse to go on with a run that was begun with other settings.

    Raises:
        TrainingError: with every key that differs.
    """
    file = cell.run_dir / "settings.yaml"
    if not file.is_file():
        return
    differing = differences(material(load([file])), material(cell.run))
    if differing:
        raise TrainingError(
            f"{cell.run_dir} was begun with other settings ({'; '.join(differing)}): remove it, or give the study "
            "another folder"
        )


@contextmanager
def holding(run_dir: Path) -> Iterator[None]:
    """Hold a cell for the length of a block; the system lets go of it however the process ends.

    Raises:
        TrainingError: another process holds it, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise TrainingError(f"run folder {run_dir} cannot be written: {error.strerror or error}") from error
    try:
        deadline = time.monotonic() + HELD_SECONDS
        while not _lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise TrainingError(f"another process works on {run_dir}: wait for it, or stop it")
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def keeping_failure(run_dir: Path) -> Iterator[None]:
    """Write down why the block failed; that nobody is left to tell of progress is no failure of a run."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        known = isinstance(error, MegadapeError)
        write_whole(run_dir / FAILURE_FILE, f"{error if known else f'{type(error).__name__}: {error}'}\n")
        raise


def is_held(run_dir: Path) -> bool:
    """Whether a process works on a cell."""
    try:
        descriptor = os.open(run_dir / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def read_failure(run_dir: Path) -> str:
    """Why the newest try failed; empty where none did."""
    try:
        return (run_dir / FAILURE_FILE).read_text().strip()
    except OSError:
        return ""
