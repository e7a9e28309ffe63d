"""Accuracy against length, a small panel for each task."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megadape.chomsky import TASKS
from megadape.evaluation.figures.style import PAGE_WIDTH, TYPOGRAPHY, save_figure, style_of
from megadape.evaluation.output import write_table
from megadape.studies.che.results import LEVELS, CheResults

COLUMNS = 4
PANEL_HEIGHT = 1.35
"""Inches."""

QUIET = "#666666"


def draw_accuracies(results: CheResults, path: Path) -> None:
    """Draw every method's mean over seeds, its deviation as a band, the end of the training lengths, and chance.

    Raises:
        EvaluationError: an unknown suffix, or an unwritable file.
    """
    tasks, methods = results.tasks, results.methods
    rows = -(-(len(tasks) + 1) // COLUMNS)  # one place is the legend's
    columns = min(COLUMNS, len(tasks) + 1)
    with rc_context(TYPOGRAPHY):
        figure = Figure(figsize=(PAGE_WIDTH, rows * PANEL_HEIGHT + 0.25), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for place, (task, axes) in enumerate(zip(tasks, panels, strict=False)):
            _draw_task(axes, results, task)
            if place % columns == 0:
                axes.set_ylabel("accuracy (%)")
            if place + columns >= len(tasks):
                axes.set_xlabel("length")
        for axes in panels[len(tasks) :]:
            axes.axis("off")
        legend = panels[len(tasks)]
        for method in methods:
            legend.plot([], [], label=method, **style_of(method).line())
        legend.plot([], [], label="chance", color=QUIET, linewidth=0.8, linestyle=":")
        legend.legend(loc="center left", frameon=False, fontsize=6.5, borderaxespad=0)
        save_figure(figure, path)


def _draw_task(axes: Axes, results: CheResults, task: str) -> None:
    axes.set_title(f"{task} ({LEVELS[TASKS[task].level]})", fontsize=6.5)
    axes.axhline(100 * results.chance(task), color=QUIET, linewidth=0.8, linestyle=":", zorder=1)
    axes.axvline(results.study.settings.training.lengths.last, color=QUIET, linewidth=0.6, dashes=(3, 2), zorder=1)
    for method in results.methods:
        curve, style = results.by_length(task, method), style_of(method)
        if not curve:
            continue
        lengths, means = list(curve), [100 * spread.mean for spread in curve.values()]
        axes.plot(lengths, means, **style.line())
        deviations = [100 * (spread.deviation or 0.0) for spread in curve.values()]
        if any(deviations):
            low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
            high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
            axes.fill_between(lengths, low, high, color=style.colour, alpha=0.15, linewidth=0)
    axes.set_ylim(0, 103)
    axes.set_yticks([0, 50, 100])
    axes.grid(axis="y")


def write_accuracies_csv(results: CheResults, path: Path) -> None:
    """Write what the figure shows: a row for each task, method and length."""
    rows = []
    for task in results.tasks:
        majorities = results.majorities(task)
        for method in results.methods:
            for length, spread in results.by_length(task, method).items():
                deviation = "" if spread.deviation is None else spread.deviation
                found = [spread.mean, deviation, spread.seeds]
                rows.append([task, method, length, *found, results.chance(task), majorities[length]])
    columns = ["task", "method", "length", "accuracy", "deviation", "seeds", "chance", "majority"]
    write_table(path, columns, rows)
