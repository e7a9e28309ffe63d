"""Runs as one HTML page that holds its pictures and loads nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from megadape.console import number
from megadape.errors import MonitoringError
from megadape.evaluation.output import write_whole
from megadape.monitoring.curves import QUANTITIES, curve_of, draw_curves
from megadape.monitoring.listing import summary
from megadape.monitoring.rows import Follower
from megadape.monitoring.standing import Standing, look_at
from megadape.monitoring.view import describe
from megadape.studies.report.elements import embedded_figure, facts_list, html_table, page, paragraphs
from megadape.training.supervision.durations import format_duration

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Run -> its rows."""


def write_page(run_dirs: Sequence[Path], path: Path) -> None:
    """Write the page of these runs.

    Raises:
        MonitoringError: a folder is not there, or no page can have that name.
        EvaluationError: the file cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise MonitoringError(f"{path}: a page's name ends in .html")
    for run_dir in run_dirs:
        if not run_dir.is_dir():
            raise MonitoringError(f"there is no run folder {run_dir}")
    names = short_names(run_dirs)
    standings = {name: look_at(run_dir) for name, run_dir in names.items()}
    rows = {name: _read_rows(run_dir) for name, run_dir in names.items()}
    title = next(iter(names)) if len(names) == 1 else f"{len(names)} runs"
    write_whole(path, page(title, "\n".join(_parts(standings, rows))))


def _parts(standings: Mapping[str, Standing], rows: Rows) -> list[str]:
    drawn = f"Drawn {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}."
    if len(standings) == 1:
        (standing,) = standings.values()
        facts = {"state": standing.state, **({"why": standing.reason} if standing.reason else {})}
        steps = "?" if standing.steps is None else f"{standing.steps:,}"
        facts |= {"step": f"{standing.step:,} of {steps}", **dict(describe(standing)), "folder": str(standing.run_dir)}
        parts = [paragraphs([drawn], "note"), facts_list(facts)]
    else:
        parts = [paragraphs([summary(list(standings.values())) + ". " + drawn], "note"), _table(standings, rows)]
    return [*parts, *_figures(rows)]


def _table(standings: Mapping[str, Standing], rows: Rows) -> str:
    head = ["run", "state", "step", "loss", "last validation", "best validation", "tokens/s", "steps took", "left"]
    body = []
    for name, run in standings.items():
        validations = [row["validation_loss"] for row in rows[name] if _is_number(row.get("validation_loss"))]
        seconds = sum(row["seconds"] for row in rows[name] if _is_number(row.get("seconds")))
        steps = "?" if run.steps is None else f"{run.steps:,}"
        body.append(
            [
                name,
                run.state,
                f"{run.step:,}/{steps}",
                number(run.numbers.get("loss"), ".4f"),
                number(run.numbers.get("validation_loss"), ".4f"),
                number(min(validations, default=None), ".4f"),
                number(run.numbers.get("tokens_per_second"), ",.0f"),
                format_duration(seconds),
                "-" if run.seconds_left is None else format_duration(run.seconds_left),
            ]
        )
    return html_table(head, body, text_columns=2)


def _figures(rows: Rows) -> list[str]:
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for quantity in QUANTITIES:
            curves = {name: curve for name, each in rows.items() if (curve := curve_of(each, quantity.key)) is not None}
            if not curves:
                continue
            path = Path(folder, f"{quantity.key}.svg")
            draw_curves(curves, quantity, path)
            caption = quantity.caption
            if quantity.noisy and any(curve.thinned for curve in curves.values()):
                caption += " Lines are means over neighbouring steps, bands reach from the lowest to the highest."
            figures.append(embedded_figure(caption, path))
    return figures or [paragraphs(["No step has been made yet."])]


def short_names(run_dirs: Sequence[Path]) -> dict[str, Path]:
    """A name for each folder: its last part, or as many as tell it from the others."""
    folders = list(dict.fromkeys(run_dir.absolute() for run_dir in run_dirs))
    for parts in range(1, 1 + max(len(folder.parts) for folder in folders)):
        names = {"/".join(folder.parts[-parts:]): folder for folder in folders}
        if len(names) == len(folders):
            break
    return names


def _read_rows(run_dir: Path) -> list[dict[str, Any]]:
    follower = Follower(run_dir / "metrics.jsonl")
    try:
        follower.update()
    except OSError:
        return []  # the standing says it
    return [follower.rows[step] for step in sorted(follower.rows)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
