"""How long the documents of a dataset are, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from megadape.data.maintenance import LengthStatistics
from megadape.evaluation.figures.style import COLUMN_WIDTH, TYPOGRAPHY, add_title, save_figure
from megadape.evaluation.output import write_table

MIN_TICKS = 3
MIN_SPREAD = 1.2  # where all lengths are alike, the axis shows this much to both sides
BAR, MEDIAN = "#56B4E9", "#D55E00"
FLOOR = 0.6  # where bars stand on the logarithmic axis: a bin with one document is seen, an empty one is not
ROOM = 0.12  # of the axis, above the highest bar


def draw_lengths(statistics: LengthStatistics, path: Path, *, title: str | None = None) -> None:
    """Draw how many documents have which length, the median marked; the same bytes each time.

    Args:
        statistics: of a dataset.
        path: its suffix names the format.
        title: a line above the figure.

    Raises:
        EvaluationError: an unknown suffix, or an unwritable file.
    """
    with rc_context(TYPOGRAPHY):
        figure = Figure(figsize=(COLUMN_WIDTH, 2.5), layout="constrained")
        axes = figure.add_subplot()
        _draw_bars(axes, statistics)
        _set_axes(axes, statistics)
        if statistics.median >= 1:
            _mark_median(axes, statistics.median)
        lines = [line for line in (title, _absent(statistics)) if line]
        if lines:
            add_title(figure, "\n".join(lines))
        save_figure(figure, path)


def write_lengths_csv(statistics: LengthStatistics, path: Path) -> None:
    """Write what the figure shows: a row a bin, lengths from and to (both in it), documents and tokens."""
    histogram = statistics.histogram
    rows = zip(
        histogram.edges[:-1].tolist(),
        (histogram.edges[1:] - 1).tolist(),
        histogram.documents.tolist(),
        histogram.tokens.tolist(),
        strict=True,
    )
    empty = [[0, 0, statistics.empty, 0]] if statistics.empty else []
    write_table(path, ["length_from", "length_to", "documents", "tokens"], [*empty, *rows])


def short_number(value: float, _: object = None) -> str:
    """A tick label in few characters: 1, 500, 2k, 30M; 2,048 where letters would save nothing."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit and len(f"{value / limit:g}") <= 3:
            return f"{value / limit:g}{letter}"
    return f"{value:,.0f}"


def _draw_bars(axes: Axes, statistics: LengthStatistics) -> None:
    edges, heights = statistics.histogram.edges, statistics.histogram.documents
    shown = heights > 0
    axes.bar(
        edges[:-1][shown],
        heights[shown] - FLOOR,
        width=np.diff(edges)[shown],
        bottom=FLOOR,
        align="edge",
        color=BAR,
        edgecolor="white",
        linewidth=0.4,
    )


def _set_axes(axes: Axes, statistics: LengthStatistics) -> None:
    edges, most = statistics.histogram.edges, max(int(statistics.histogram.documents.max()), 2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    margin = max((edges[-1] / edges[0]) ** 0.02, MIN_SPREAD / np.sqrt(edges[-1] / edges[0]))
    axes.set_xlim(edges[0] / margin, edges[-1] * margin)
    axes.set_ylim(FLOOR, FLOOR * (most / FLOOR) ** (1 / (1 - ROOM)))
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(FixedLocator(_ticks(max(low, 1.0), high)))
        axis.set_minor_locator(FixedLocator(_steps(max(low, 1.0), high, range(1, 10))))
        axis.set_major_formatter(FuncFormatter(short_number))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=1.2, width=0.4)
    axes.set_xlabel("document length (tokens)")
    axes.set_ylabel("documents")
    axes.grid(axis="y")


def _ticks(low: float, high: float) -> list[float]:
    """Where labels stand: powers of ten, and steps between them where those are few."""
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = _steps(low, high, steps)
        if len(ticks) >= MIN_TICKS:
            return ticks
    between = MaxNLocator(5, integer=True).tick_values(low, high)
    return [float(tick) for tick in between if low <= tick <= high]


def _steps(low: float, high: float, steps: Iterable[float]) -> list[float]:
    """Steps times powers of ten, from low to high."""
    return sorted(step * 10.0**power for power in range(16) for step in steps if low <= step * 10.0**power <= high)


def _mark_median(axes: Axes, median: float) -> None:
    axes.axvline(median, color=MEDIAN, linewidth=1.0, linestyle=(0, (4, 2)))
    first, last = axes.get_xlim()
    left = median**2 <= first * last
    axes.annotate(
        f"median {median:,.0f}" if median.is_integer() else f"median {median:,.1f}",
        (median, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3 if left else -3, -2),
        textcoords="offset points",
        ha="left" if left else "right",
        va="top",
        color=MEDIAN,
        fontsize=6.5,
        fontweight="bold",
    )


def _absent(statistics: LengthStatistics) -> str:
    if not statistics.empty:
        return ""
    return f"({statistics.empty:,} documents without tokens are not shown)"
