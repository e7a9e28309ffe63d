"""Quality against cost, one point a method."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from megadape.errors import EvaluationError
from megadape.evaluation.figures.curves import set_value_axis
from megadape.evaluation.figures.end_labels import LINE_HEIGHT, EndLabel, label_ends
from megadape.evaluation.figures.labels import format_value
from megadape.evaluation.figures.style import COLUMN_WIDTH, TYPOGRAPHY, add_title, plain_number, save_figure, style_of
from megadape.evaluation.output import write_table

Costs = Mapping[str, tuple[float, float]]
"""Method -> (cost, value)."""


def draw_costs(
    costs: Costs,
    path: Path,
    *,
    xlabel: str = "training time (cheapest = 1)",
    ylabel: str = "perplexity",
    title: str | None = None,
) -> None:
    """Draw each method's value against what it costs; the best stand at the lower left.

    Args:
        costs: method -> (cost, value); infinite values stand at the upper edge.
        path: its suffix names the format.
        xlabel: what the cost is.
        ylabel: what the value is.
        title: a line above the figure.

    Raises:
        EvaluationError: nothing to draw, a cost that is not finite or a value that is no number, an unknown suffix, or
            an unwritable file.
    """
    check_costs(costs)
    with rc_context(TYPOGRAPHY):
        figure = Figure(figsize=(COLUMN_WIDTH, max(2.5, 0.8 + LINE_HEIGHT / 72 * len(costs))), layout="constrained")
        axes = figure.add_subplot()
        top = set_value_axis(axes, [value for _, value in costs.values()])
        _set_cost_axis(axes, [cost for cost, _ in costs.values()])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.grid()
        for method, (cost, value) in costs.items():
            axes.plot([cost], [min(value, top)], **style_of(method).markers(), clip_on=False)
        if title is not None:
            add_title(figure, title)
        labels = [
            EndLabel(method, format_value(value), (cost, min(value, top))) for method, (cost, value) in costs.items()
        ]
        label_ends(figure, axes, labels)
        save_figure(figure, path)


def write_costs_csv(costs: Costs, path: Path) -> None:
    """Write what the figure shows: a row a method."""
    check_costs(costs)
    write_table(path, ["method", "cost", "value"], [[method, *point] for method, point in costs.items()])


def check_costs(costs: Costs) -> None:
    """Refuse points that cannot be shown.

    Raises:
        EvaluationError: none, a cost that is not finite, or a value that is no number.
    """
    if not costs:
        raise EvaluationError("there are no costs to show: train and evaluate at least one method")
    for method, (cost, value) in costs.items():
        if not isfinite(cost) or value != value:
            raise EvaluationError(f"the cost ({cost}) or the value ({value}) of {method} cannot be drawn")


def _set_cost_axis(axes: Axes, costs: list[float]) -> None:
    low, high = min(costs), max(costs)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
