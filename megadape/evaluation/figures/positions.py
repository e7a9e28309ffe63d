"""Loss against position in the text, one line a method."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import isnan, sqrt
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from megadape.errors import EvaluationError
from megadape.evaluation.figures.curves import mark_training_length, set_length_axis, set_value_axis
from megadape.evaluation.figures.end_labels import LINE_HEIGHT, EndLabel, label_ends
from megadape.evaluation.figures.labels import format_value
from megadape.evaluation.figures.style import COLUMN_WIDTH, TYPOGRAPHY, add_title, save_figure, style_of
from megadape.evaluation.output import write_table
from megadape.evaluation.results import PositionLosses

MOST_TICKS = 5

ByPosition = Mapping[str, PositionLosses]
"""Method -> its losses."""


def draw_positions(losses: ByPosition, training_length: int, path: Path, *, title: str | None = None) -> None:
    """Draw the mean loss of each stretch of positions at the middle of the stretch, positions on a logarithmic axis.

    Raises:
        EvaluationError: nothing to draw, a loss that is no number, an unknown suffix, or an unwritable file.
    """
    check_positions(losses)
    curves = {method: dict(zip(middles(part.edges), part.losses, strict=True)) for method, part in losses.items()}
    places = sorted({place for curve in curves.values() for place in curve})
    with rc_context(TYPOGRAPHY):
        figure = Figure(figsize=(COLUMN_WIDTH, max(2.5, 0.8 + LINE_HEIGHT / 72 * len(losses))), layout="constrained")
        axes = figure.add_subplot()
        shown = _powers(places[0], max(part.length for part in losses.values()))
        set_length_axis(axes, shown, training_length, MOST_TICKS)
        top = set_value_axis(axes, [value for curve in curves.values() for value in curve.values()])
        axes.set_xlabel("position in the text (tokens)")
        axes.set_ylabel("loss (nats a token)")
        axes.grid(axis="y")
        for method, curve in curves.items():
            heights = [min(value, top) for value in curve.values()]
            axes.plot(list(curve), heights, **style_of(method).line())
            axes.plot(list(curve), heights, **style_of(method).markers())
        mark_training_length(axes, training_length)
        if title is not None:
            add_title(figure, title)
        ends = {method: max(curve) for method, curve in curves.items()}
        labels = [
            EndLabel(method, format_value(curves[method][end]), (end, min(curves[method][end], top)))
            for method, end in ends.items()
        ]
        label_ends(figure, axes, labels)
        save_figure(figure, path)


def write_positions_csv(losses: ByPosition, path: Path) -> None:
    """Write what the figure shows: a row for each method and stretch, positions from and to (both in it)."""
    check_positions(losses)
    rows = (
        [method, first, last - 1, loss]
        for method, part in losses.items()
        for first, last, loss in zip(part.edges[:-1], part.edges[1:], part.losses, strict=True)
    )
    write_table(path, ["method", "position_from", "position_to", "loss"], rows)


def check_positions(losses: ByPosition) -> None:
    """Refuse losses that cannot be shown.

    Raises:
        EvaluationError: none, or one that is no number.
    """
    if not losses or not all(part.losses for part in losses.values()):
        raise EvaluationError("there are no losses by position to show: evaluate at least one method")
    for method, part in losses.items():
        if any(isnan(value) for value in part.losses):
            raise EvaluationError(f"a loss by position of {method} is not a number: see where its training diverged")


def middles(edges: tuple[int, ...]) -> list[float]:
    """Geometric middle of each stretch, counting the first token as 1."""
    return [sqrt((first + 1) * last) for first, last in pairwise(edges)]


def _powers(low: float, high: int) -> list[int]:
    """Powers of two that cover a range."""
    powers = [2**power for power in range(40) if low <= 2**power <= high]
    return sorted({*powers, high})
