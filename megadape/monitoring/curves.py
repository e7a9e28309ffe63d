"""Curves over the steps of one or several runs, in the look of the other figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from megadape.evaluation.figures.style import COLUMN_WIDTH, LOOKS, OTHER_DASHES, TYPOGRAPHY, plain_number, save_figure
from megadape.monitoring.rows import number

MOST_POINTS = 300
"""Of a curve: more would not be seen."""

LEGEND_LINE = 0.15
"""Inches."""

ORDER = ("rope", "kerple_log", "alibi", "t5", "fire", "randomized_rope", "yarn", "kerple_power", "cope", "none")
"""Whose colours runs take, one after the other: neighbours are far apart."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Quantity:
    """What one figure shows."""

    key: str
    label: str
    caption: str
    sparse: bool = False
    """Not measured at every step: points are marked."""
    noisy: bool = True
    """Neighbouring steps differ."""


QUANTITIES = (
    Quantity("loss", "training loss (nats a token)", "Training loss over the steps."),
    Quantity("validation_loss", "validation loss (nats a token)", "Loss on the validation sequences.", sparse=True),
    Quantity("learning_rate", "learning rate", "Learning rate over the steps.", noisy=False),
    Quantity("grad_norm", "gradient norm", "Norm of the whole gradient before clipping."),
    Quantity("tokens_per_second", "tokens a second", "Training speed, all ranks together."),
)


@dataclass(frozen=True)
class Curve:
    """Values over steps; of a long run, stretches of steps with their mean and their extremes."""

    steps: tuple[float, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def thinned(self) -> bool:
        """Whether a point stands for several steps."""
        return self.low != self.high


def curve_of(rows: Rows, key: str, most: int = MOST_POINTS) -> Curve | None:
    """The curve of a quantity; None where no row has it."""
    points = [(row["step"], value) for row in rows if (value := number(row, key)) is not None]
    if not points:
        return None
    count = min(most, len(points))
    edges = [round(place * len(points) / count) for place in range(count + 1)]
    stretches = [points[a:b] for a, b in pairwise(edges)]
    values = [[value for _, value in stretch] for stretch in stretches]
    return Curve(
        tuple(fmean(step for step, _ in stretch) for stretch in stretches),
        tuple(map(fmean, values)),
        tuple(map(min, values)),
        tuple(map(max, values)),
    )


def draw_curves(curves: Mapping[str, Curve], quantity: Quantity, path: Path) -> None:
    """Draw one quantity of several runs.

    Args:
        curves: run -> curve, at least one.
        quantity: what it is.
        path: its suffix names the format.

    Raises:
        EvaluationError: an unknown suffix, or an unwritable file.
    """
    assert curves
    lines = len(curves) if len(curves) > 1 else 0
    with rc_context(TYPOGRAPHY):
        figure = Figure(figsize=(COLUMN_WIDTH, 2.1 + LEGEND_LINE * lines), layout="constrained")
        axes = figure.add_subplot()
        for (name, curve), (colour, dash) in zip(curves.items(), looks(len(curves)), strict=True):
            marks: dict[str, Any] = (
                {"marker": "o", "markersize": 2.5} if quantity.sparse or len(curve.steps) == 1 else {}
            )
            axes.plot(curve.steps, curve.values, color=colour, linestyle=dash, linewidth=1.0, label=name, **marks)
            if curve.thinned:
                axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("step")
        axes.set_ylabel(quantity.label)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_tick))
        if lines:
            figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=6.5, borderpad=0)
        save_figure(figure, path)


def looks(count: int) -> list[tuple[str, Any]]:
    """Colour and dashes of each of so many lines."""
    colours = [LOOKS[name][0] for name in ORDER]
    dashes = ["-", *OTHER_DASHES]
    return [
        (colour, dashes[place // len(colours) % len(dashes)])
        for place, colour in enumerate(islice(cycle(colours), count))
    ]


def _tick(value: float, place: object = None) -> str:
    """0.003, 25, 12k."""
    if abs(value) >= 10000:
        return f"{plain_number(value / 1000)}k"
    if 0 < abs(value) < 0.001:
        return f"{value:.3g}"
    return plain_number(value)
