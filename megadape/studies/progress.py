"""How far each cell of a study is, read from its run folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from megadape.studies.cell import is_done, is_held, is_trained, read_failure
from megadape.studies.grid import Cell
from megadape.training.metrics import read_metrics
from megadape.training.supervision.outcome import read_outcome

State = Literal["waiting", "running", "interrupted", "failed", "trained", "done"]
STATES: tuple[State, ...] = ("done", "running", "trained", "interrupted", "failed", "waiting")


@dataclass(frozen=True)
class CellProgress:
    """Where one cell stands."""

    cell: Cell
    state: State
    """trained: all steps are made, the evaluation is missing, begun, or was made with other settings."""
    step: int
    loss: float | None
    """Training loss of the newest step."""
    seconds: float
    """Spent in its steps, those not counted that a resumed run made again."""
    reason: str = ""
    """Why it failed."""


def look_at(cell: Cell) -> CellProgress:
    """Where a cell stands now."""
    rows = read_metrics(cell.run_dir / "metrics.jsonl")
    step, loss = (rows[-1]["step"], rows[-1]["loss"]) if rows else (0, None)
    state, reason = _state_of(cell)
    return CellProgress(cell, state, step, loss, sum(row["seconds"] for row in rows), reason)


def _state_of(cell: Cell) -> tuple[State, str]:
    if is_done(cell):
        return "done", ""
    if is_held(cell.run_dir):
        return "running", ""
    failure, outcome = read_failure(cell.run_dir), read_outcome(cell.run_dir)
    if outcome is not None and outcome.state == "resumable":
        return "interrupted", ""
    if failure:
        return "failed", failure
    if outcome is None:
        return "waiting", ""
    if outcome.state == "failed":
        return "failed", outcome.reason
    return ("trained", "") if is_trained(cell.run) else ("interrupted", "")


def status_rows(progress: Sequence[CellProgress]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: one row for each method at each size and training length."""
    groups: dict[str, list[CellProgress]] = {}
    for one in progress:
        cell = one.cell
        groups.setdefault(f"{cell.size}-{cell.training_length}/{cell.method}", []).append(one)
    shown = [state for state in STATES if any(one.state == state for one in progress)]
    rows = []
    for name, members in groups.items():
        counts = Counter(one.state for one in members)
        steps = sum(one.step for one in members)
        wanted = sum(one.cell.run.training.steps for one in members)
        finished = [one.loss for one in members if one.state == "done" and one.loss is not None]
        rows.append(
            [
                name,
                *(str(counts[state] or "-") for state in shown),
                f"{steps:,}/{wanted:,}",
                format_time(sum(one.seconds for one in members)),
                f"{fmean(finished):.3f}" if finished else "-",
            ]
        )
    return ["runs", *shown, "steps", "trained for", "mean last loss"], rows


def status_sentences(progress: Sequence[CellProgress]) -> list[str]:
    """What needs more words than a table has: what runs now, and what failed, why."""
    lines = [
        f"{one.cell.name}: step {one.step}/{one.cell.run.training.steps}" for one in progress if one.state == "running"
    ]
    lines += [f"{one.cell.name} failed: {one.reason}" for one in progress if one.state == "failed"]
    done = sum(one.state == "done" for one in progress)
    if done < len(progress):
        lines.append(f"{done} of {len(progress)} runs are done; megadape study run goes on with the others")
    else:
        lines.append(f"all {done} runs are done; megadape study report draws them")
    return lines


def format_time(seconds: float) -> str:
    """1 h 05 min, 12 min, 40 s."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
