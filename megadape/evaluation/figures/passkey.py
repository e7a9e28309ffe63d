"""Passkey retrieval as heat maps, depth against length: a row of two maps for each method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from megadape.errors import EvaluationError
from megadape.evaluation.figures.style import PAGE_WIDTH, TYPOGRAPHY, add_title, save_figure
from megadape.evaluation.output import write_table
from megadape.evaluation.results import Passkey

Retrieval = Mapping[str, Passkey]
"""Method -> what it retrieves."""

MEASURES = {"likelihood": "right key likeliest", "exact": "key written out"}
"""Field of a place -> title."""

COLOURS = LinearSegmentedColormap.from_list("retrieval", ["#f3efe6", "#E69F00", "#D55E00", "#5b1a00"])
"""From none to all; lightness falls all the way, so that it reads in grey."""

DARK = 0.55  # from this share on, numbers are written in white
MOST_WRITTEN = 80  # numbers in one map; more would not be read


def draw_passkey(retrieval: Retrieval, path: Path, *, title: str | None = None) -> None:
    """Draw the share of keys found, for each length and depth.

    Raises:
        EvaluationError: nothing to draw, an unknown suffix, or an unwritable file.
    """
    check_passkey(retrieval)
    rows = len(retrieval)
    depths = max(len({place.depth for place in result.places}) for result in retrieval.values())
    with rc_context(TYPOGRAPHY):
        height = 0.8 + rows * (0.55 + 0.17 * depths)
        figure = Figure(figsize=(PAGE_WIDTH * 0.8, height), layout="constrained")
        grid: np.ndarray = figure.subplots(rows, len(MEASURES), squeeze=False)
        for line, (method, result) in zip(grid, retrieval.items(), strict=True):
            for axes, measure in zip(line, MEASURES, strict=True):
                _draw_map(axes, result, measure)
            line[0].set_ylabel(f"{method}\ndepth")
            line[1].set_yticklabels([])
        for axes, name in zip(grid[0], MEASURES.values(), strict=True):
            axes.set_title(name)
        for axes in grid[-1]:
            axes.set_xlabel("length (tokens)")
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), ax=grid, aspect=40, pad=0.01)
        bar.set_label("share of trials")
        if title is not None:
            add_title(figure, title)
        save_figure(figure, path)


def write_passkey_csv(retrieval: Retrieval, path: Path) -> None:
    """Write what the figure shows: a row for each method, length and depth."""
    check_passkey(retrieval)
    columns = ["length", "depth", "trials", "likelihood", "exact", "key_loss"]
    rows = (
        [method, *(getattr(place, name) for name in columns), result.candidates]
        for method, result in retrieval.items()
        for place in sorted(result.places, key=lambda place: (place.length, place.depth))
    )
    write_table(path, ["method", *columns, "candidates"], rows)


def check_passkey(retrieval: Retrieval) -> None:
    """Refuse what has nothing to show.

    Raises:
        EvaluationError: no method, or one without a place.
    """
    if not retrieval or not all(result.places for result in retrieval.values()):
        raise EvaluationError("there are no passkeys to show: evaluate at least one method")


def _draw_map(axes: Axes, result: Passkey, measure: str) -> None:
    lengths = sorted({place.length for place in result.places})
    depths = sorted({place.depth for place in result.places})
    shares = np.full((len(depths), len(lengths)), np.nan)
    for place in result.places:
        shares[depths.index(place.depth), lengths.index(place.length)] = getattr(place, measure)
    axes.pcolormesh(shares, cmap=COLOURS, vmin=0, vmax=1, edgecolors="white", linewidth=0.6)
    axes.set_xticks(np.arange(len(lengths)) + 0.5, [str(length) for length in lengths])
    step = max(1, len(depths) // 6)
    axes.set_yticks(np.arange(0, len(depths), step) + 0.5, [f"{depth:.0%}" for depth in depths[::step]])
    axes.invert_yaxis()  # the beginning of the text on top
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if shares.size <= MOST_WRITTEN:
        for (row, column), share in np.ndenumerate(shares):
            if np.isfinite(share):
                colour = "white" if share > DARK else "#333333"
                axes.text(column + 0.5, row + 0.5, f"{share:.0%}", ha="center", va="center", fontsize=5, color=colour)
    if result.training_length in lengths:
        label = axes.get_xticklabels()[lengths.index(result.training_length)]
        label.set_fontweight("bold")
