"""How far a CHE study is, read from its folders alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from megadape.chomsky.experiment import is_done
from megadape.studies.cell import is_held, read_failure
from megadape.studies.che.grid import CheCell

State = Literal["waiting", "running", "interrupted", "failed", "done"]
STATES: tuple[State, ...] = ("done", "running", "interrupted", "failed", "waiting")


def state_of(cell: CheCell) -> State:
    """Where an experiment stands now."""
    if is_done(cell.experiment, cell.folder):
        return "done"
    if is_held(cell.folder):
        return "running"
    if read_failure(cell.folder):
        return "failed"
    return "interrupted" if (cell.folder / "metrics.jsonl").exists() else "waiting"


def status_rows(cells: Sequence[CheCell]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: one row a task."""
    states: dict[str, Counter[State]] = {}
    for cell in cells:
        states.setdefault(cell.task, Counter())[state_of(cell)] += 1
    shown = [state for state in STATES if any(counts[state] for counts in states.values())]
    rows = [[task, *(str(counts[state] or "-") for state in shown)] for task, counts in states.items()]
    return ["task", *shown], rows


def failures(cells: Sequence[CheCell]) -> list[str]:
    """What failed, and why: a sentence each."""
    return [f"{cell.name} failed: {read_failure(cell.folder)}" for cell in cells if state_of(cell) == "failed"]
