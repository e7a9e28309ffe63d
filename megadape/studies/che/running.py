"""A CHE study in processes of this machine: nothing is run twice, an experiment that fails does not stop the others,
and the same command goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from megadape.chomsky.experiment import is_done, run_experiment
from megadape.console import Bars
from megadape.errors import MegadapeError
from megadape.evaluation.output import write_whole
from megadape.machine import available_cpus, choose_threads, keep_freed_memory
from megadape.studies.cell import FAILURE_FILE, holding
from megadape.studies.che.grid import CheCell
from megadape.studies.local import Job, Report, run_jobs
from megadape.studies.progress import format_time
from megadape.studies.running import device_slots


def run_che(cells: Sequence[CheCell], at_once: int | None, bars: Bars) -> dict[str, str]:
    """Run the experiments that are not done.

    Args:
        cells: those that are wanted.
        at_once: processes; None: one for each GPU, else for each CPU.
        bars: told of progress.

    Returns:
        Experiments that failed, by name -> why.
    """
    todo = [cell for cell in cells if not is_done(cell.experiment, cell.folder)]
    if len(todo) < len(cells):
        bars.message(f"{len(cells) - len(todo)} of {len(cells)} experiments are done already")
    if not todo:
        return {}
    slots = device_slots()
    at_once = min(at_once or len(slots), len(todo))
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or max(1, available_cpus() // at_once)
    bars.message(f"{len(todo)} experiments, {at_once} at once, {threads} thread{'s' * (threads > 1)} each")
    failures: dict[str, str] = {}
    started, ended = time.monotonic(), 0

    def end(name: str, how: str) -> None:
        nonlocal ended
        ended += 1
        left = (time.monotonic() - started) / ended * (len(todo) - ended)
        rest = f", about {format_time(left)} left" if ended < len(todo) else ""
        bars.finish(name)
        bars.message(f"{name}: {how} ({ended} of {len(todo)}{rest})")

    def fail(name: str, why: str) -> None:
        failures[name] = why.strip()
        end(name, f"failed: {why.strip()}")

    run_jobs(
        [Job(cell.name, run_cell, (cell,)) for cell in todo],
        at_once,
        threads,
        bars.update,
        on_result=lambda name, accuracy: end(name, f"accuracy {100 * accuracy:.1f} %"),
        on_failure=fail,
        slots=[slots[index % len(slots)] for index in range(at_once)],
    )
    return failures


def run_cell(cell: CheCell, report: Report) -> float:
    """Run one experiment, from wherever an earlier try came to; returns its accuracy.

    Raises:
        MegadapeError: another process works on it, its folder holds another experiment, or it failed; the reason is
            kept.
    """
    torch.set_num_threads(choose_threads())
    keep_freed_memory()
    with holding(cell.folder):
        failure = cell.folder / FAILURE_FILE
        failure.unlink(missing_ok=True)
        try:
            return run_experiment(cell.experiment, cell.folder, report).accuracy
        except Exception as error:
            known = isinstance(error, MegadapeError)
            write_whole(failure, f"{error if known else f'{type(error).__name__}: {error}'}\n")
            raise
