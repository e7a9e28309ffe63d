"""A CHE study in processes of this machine: nothing is run twice, an experiment that fails does not stop the others,
and the same command goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megadape.chomsky.experiment import is_done, run_experiment
from megadape.console import Bars
from megadape.machine import choose_threads, keep_freed_memory
from megadape.studies.batch import run_batch
from megadape.studies.cell import FAILURE_FILE, holding, keeping_failure
from megadape.studies.che.grid import CheCell
from megadape.studies.local import Job, Report


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
    jobs = [Job(cell.name, run_cell, (cell,)) for cell in todo]
    return run_batch(jobs, "experiments", at_once, bars, lambda accuracy: f"accuracy {100 * accuracy:.1f} %")


def run_cell(cell: CheCell, report: Report) -> float:
    """Run one experiment, from wherever an earlier try came to; returns its accuracy.

    Raises:
        MegadapeError: another process works on it, its folder holds another experiment, or it failed; the reason is
            kept.
    """
    torch.set_num_threads(choose_threads())
    keep_freed_memory()
    with holding(cell.folder):
        (cell.folder / FAILURE_FILE).unlink(missing_ok=True)
        with keeping_failure(cell.folder):
            return run_experiment(cell.experiment, cell.folder, report).accuracy
