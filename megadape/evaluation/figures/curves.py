"""Perplexity against evaluation length, one line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite, isnan, log2
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from megadape.errors import EvaluationError
from megadape.evaluation.figures.end_labels import LINE_HEIGHT, EndLabel, label_ends
from megadape.evaluation.figures.labels import format_value
from megadape.evaluation.figures.style import COLUMN_WIDTH, TYPOGRAPHY, add_title, plain_number, save_figure, style_of
from megadape.evaluation.output import write_table

Curves = Mapping[str, Mapping[int, float]]
"""Method -> length -> value (perplexity, bits per byte)."""

Bands = Mapping[str, Mapping[int, tuple[float, float]]]
"""Method -> length -> (low, high) around the value."""

LOG_SPREAD = 4.0  # from this ratio of largest to smallest value on, the y axis is logarithmic
SHOWN_SPREAD = 1000.0  # a value larger than this times the smallest stands at the upper edge
MOST_TICKS = 8


def draw_extrapolation(
    curves: Curves,
    training_length: int,
    path: Path,
    *,
    ylabel: str = "perplexity",
    title: str | None = None,
    bands: Bands | None = None,
) -> None:
    """Draw each method's value against evaluation length, the training length marked, the last value beside each line.

    Values that are infinite, or more than a thousand times the smallest, stand as triangles at the upper edge.

    Args:
        curves: method -> length -> value.
        training_length: tokens.
        path: its suffix names the format.
        ylabel: what the values are.
        title: a line above the figure; papers have it in the caption instead.
        bands: shaded around the lines; the caption should say what they are.

    Raises:
        EvaluationError: nothing to draw, a value that is no number, an unknown suffix, or an unwritable file.
    """
    check_curves(curves)
    values = [value for curve in curves.values() for value in curve.values()]
    with rc_context(TYPOGRAPHY):
        height = max(2.5, 0.8 + LINE_HEIGHT / 72 * len(curves))
        figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        set_length_axis(axes, lengths_of(curves), training_length)
        top = set_value_axis(axes, values)
        axes.set_ylabel(ylabel)
        axes.grid(axis="y")
        for method, curve in curves.items():
            _draw_band(axes, method, (bands or {}).get(method, {}), top)
            _draw_curve(axes, method, curve, top)
        mark_training_length(axes, training_length)
        if max(values) > top:
            figure.text(
                0.99, 0.015, "\N{BLACK UP-POINTING TRIANGLE} off the scale", ha="right", color="#444444", fontsize=6.5
            )
        if title is not None:
            add_title(figure, title)
        last = lengths_of(curves)[-1]
        label_ends(figure, axes, [_end(method, curve, top, last) for method, curve in curves.items()])
        save_figure(figure, path)


def write_curves_csv(curves: Curves, path: Path) -> None:
    """Write what the figure shows: a row a method, a column a length; empty where a method has no value."""
    check_curves(curves)
    lengths = lengths_of(curves)
    rows = [[method, *(curve.get(length, "") for length in lengths)] for method, curve in curves.items()]
    write_table(path, ["method", *map(str, lengths)], rows)


def lengths_of(curves: Curves) -> list[int]:
    """All lengths at which any method has a value, increasing."""
    return sorted({length for curve in curves.values() for length in curve})


def check_curves(curves: Curves) -> None:
    """Refuse curves that cannot be shown.

    Raises:
        EvaluationError: no method, a method without a value, or a value that is no number.
    """
    if not curves:
        raise EvaluationError("there are no results to show: evaluate at least one method")
    for method, curve in curves.items():
        if not curve:
            raise EvaluationError(f"there are no results of {method} to show: evaluate it at one length at least")
        for length, value in curve.items():
            if isnan(value):
                raise EvaluationError(
                    f"the result of {method} at length {length} is not a number: see where its training loss diverged"
                )


def set_length_axis(axes: Axes, lengths: Sequence[int], training_length: int, most: int = MOST_TICKS) -> None:
    """Lengths on a logarithmic axis, as many of them named as stand side by side."""
    first, last = min(lengths[0], training_length), max(lengths[-1], training_length)
    axes.set_xscale("log", base=2)
    margin = max((last / first) ** 0.03, 1.02)
    axes.set_xlim(first / margin, last * margin)
    ticks = [lengths[-1]]
    for length in reversed(lengths[:-1]):  # as many as stand side by side; the longest is always there
        if log2(ticks[-1] / length) >= log2(last / first) / most:
            ticks.append(length)
    axes.set_xticks(ticks, labels=[str(length) for length in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("evaluation length (tokens)")


def set_value_axis(axes: Axes, values: Sequence[float]) -> float:
    """Choose scale and limits; returns the upper limit, at which larger values are drawn."""
    finite = [value for value in values if isfinite(value)]
    if not finite:
        axes.yaxis.set_major_locator(NullLocator())
        axes.set_ylim(0, 1)
        return 1.0
    low = min(finite)
    shown = [value for value in finite if value <= SHOWN_SPREAD * low] if low > 0 else finite
    high = max(shown)
    if low > 0 and high / low > LOG_SPREAD:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        pad = (high / low) ** 0.05
        bottom, top = low / pad, high * pad
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        bottom, top = low - pad, high + pad
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.set_ylim(bottom, top)
    return top


def _draw_curve(axes: Axes, method: str, curve: Mapping[int, float], top: float) -> None:
    style = style_of(method)
    inside = [length for length in sorted(curve) if curve[length] <= top]
    clipped = [length for length in sorted(curve) if curve[length] > top]
    for first, second in pairwise(sorted(curve)):
        if first in inside or second in inside:  # no line along the upper edge
            axes.plot([first, second], [min(curve[first], top), min(curve[second], top)], **style.line())
    if inside:
        axes.plot(inside, [curve[length] for length in inside], **style.markers())
    if clipped:
        axes.plot(clipped, [top] * len(clipped), "^", markersize=5, color=style.colour, clip_on=False)


def _draw_band(axes: Axes, method: str, band: Mapping[int, tuple[float, float]], top: float) -> None:
    """Shade from low to high; the part above the upper edge is cut off."""
    lengths = sorted(band)
    if len(lengths) > 1:
        low, high = ([min(band[length][side], top) for length in lengths] for side in (0, 1))
        axes.fill_between(lengths, low, high, color=style_of(method).colour, alpha=0.16, linewidth=0, zorder=2)


def mark_training_length(axes: Axes, training_length: int) -> None:
    """A dashed line at the training length, its label on the emptier side."""
    axes.axvline(training_length, color="#666666", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    first, last = axes.get_xlim()
    left = training_length**2 <= first * last  # in the left half of a logarithmic axis
    axes.annotate(
        f"trained at {training_length}",
        (training_length, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-3 if left else 3, 4),
        textcoords="offset points",
        ha="left" if left else "right",
        va="bottom",
        color="#444444",
        fontsize=6.5,
    )


def _end(method: str, curve: Mapping[int, float], top: float, last: int) -> EndLabel:
    end = max(curve)
    early = f" at {end}" if end != last else ""
    return EndLabel(method, f"{format_value(curve[end])}{early}", (end, min(curve[end], top)), bool(early))
