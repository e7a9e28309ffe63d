"""What each attention head makes of distance (the DAPE paper, figure 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from megadape.errors import EvaluationError
from megadape.evaluation.figures.style import COLUMN_WIDTH, PAGE_WIDTH, TYPOGRAPHY, add_title, plain_number, save_figure
from megadape.evaluation.head_profiles import HeadProfile, rounding, running_mean
from megadape.evaluation.output import write_table

QUANTITIES = {
    "score": ("attention score", "#0072B2"),
    "bias": ("static bias", "#009E73"),
    "correction": ("DAPE correction", "#D55E00"),
}
"""Field of a profile -> title, colour."""

BLOCK_HEADS = 8  # more heads than this stand in two blocks side by side
SHARED_SPREAD = 3.0  # heads share an axis unless one spans this many times what most of them do

Values = Mapping[str, np.ndarray]
"""Field of a profile -> [heads, distances]."""

Limits = tuple[float, float] | None


def draw_heads(profile: HeadProfile, path: Path, *, title: str | None = None) -> None:
    """Draw score, static bias and DAPE correction of one query against distance, for every head.

    Dots are single keys, lines running means over bins that widen with distance. The heads of one quantity share their
    axis where their ranges are alike. A model without static bias, or without mixer, has no such panels, and the title
    says so.

    Raises:
        EvaluationError: a value that is no number, an unknown suffix, or an unwritable file.
    """
    values = {name: np.asarray(getattr(profile, name), dtype=np.float64) for name in QUANTITIES}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise EvaluationError(f"the {QUANTITIES[name][0]} of layer {profile.layer} is not a number everywhere")
    shown = [name for name in QUANTITIES if is_present(values, name)]
    limits = {name: shared_limits(values[name]) for name in shown}
    heads = len(profile.score)
    blocks = 1 if heads <= BLOCK_HEADS else 2
    rows = ceil(heads / blocks)
    width = max(COLUMN_WIDTH, min(PAGE_WIDTH, 0.6 + 2.2 * len(shown) * blocks))
    with rc_context(TYPOGRAPHY):
        figure = Figure(figsize=(width, 0.9 + rows * (1.15 if blocks == 1 else 0.95)), layout="constrained")
        add_title(figure, describe(profile, shown, title))
        figure.supxlabel("distance to the key (tokens)", fontsize=7)
        for block, part in enumerate(figure.subfigures(1, blocks, squeeze=False).flat):
            members = range(block * rows, min(heads, (block + 1) * rows))
            _draw_block(part, values, limits, members, rows)
        save_figure(figure, path)


def write_heads_csv(profile: HeadProfile, path: Path) -> None:
    """Write what the figure shows: a row for each head and distance, both from 0."""
    rows = (
        [head, distance, *(float(getattr(profile, name)[head, distance]) for name in QUANTITIES)]
        for head in range(len(profile.score))
        for distance in range(profile.query + 1)
    )
    write_table(path, ["head", "distance", *QUANTITIES], rows)


def is_present(values: Values, name: str) -> bool:
    """Whether the model has such a term: always scores; others if they exceed float32's rounding of the logits."""
    return name == "score" or bool((np.abs(values[name]) > rounding(values["score"], values["bias"])).any())


def shared_limits(values: np.ndarray) -> Limits:
    """Limits of a common axis for all heads of [heads, distances], or None where one would flatten the others."""
    spans = np.ptp(values, axis=1)
    if spans.max() > SHARED_SPREAD * np.median(spans):
        return None
    margin = 0.06 * np.ptp(values) or 1.0
    return float(values.min() - margin), float(values.max() + margin)


def describe(profile: HeadProfile, shown: Sequence[str], title: str | None) -> str:
    """What is above the figure: the title, or else the place in the model; and what the model has not."""
    first = f"layer {profile.layer}, query {profile.query}" if title is None else title
    absent = ", ".join(f"no {QUANTITIES[name][0]}" for name in QUANTITIES if name not in shown)
    return f"{first}\n({absent})" if absent else first


def short_distance(distance: float, _: object = None) -> str:
    """A tick label for narrow panels: 0, 100, 1k."""
    return f"{distance:.0f}" if distance < 1000 else f"{distance / 1000:.0f}k"


def _draw_block(part: SubFigure, values: Values, limits: Mapping[str, Limits], heads: Iterable[int], rows: int) -> None:
    """Rows of heads, a column for each quantity."""
    grid: np.ndarray = part.subplots(rows, len(limits), squeeze=False, sharex=True)
    members = list(heads)
    for axes in grid[len(members) :].flat:
        axes.set_axis_off()
    for row, head in enumerate(members):
        for axes, (name, limit) in zip(grid[row], limits.items(), strict=True):
            _draw_panel(axes, values[name][head], QUANTITIES[name][1], limit)
        grid[row, 0].set_ylabel(f"head {head}")
    for axes, name in zip(grid[0], limits, strict=True):
        axes.set_title(QUANTITIES[name][0], fontsize=7.5)
    for axes in grid[len(members) - 1]:
        axes.tick_params(labelbottom=True)


def _draw_panel(axes: Axes, values: np.ndarray, colour: str, limits: Limits) -> None:
    distances = np.arange(len(values))
    axes.axhline(0, color="#cccccc", linewidth=0.6, zorder=0)
    # thousands of dots are pixels in a vector file; everything else stays a drawing
    axes.plot(distances, values, ".", markersize=1.6, markeredgewidth=0, color=colour, alpha=0.35, rasterized=True)
    axes.plot(*running_mean(values), "o-", color=colour, linewidth=1.2, markersize=1.8, markeredgewidth=0)
    # the query's own position stands at 0, left of the logarithmic part
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    axes.set_xlim(-0.3, max(len(values) - 1, 1) * 1.15)
    axes.xaxis.set_major_locator(FixedLocator([0, *(10.0**power for power in range(9))]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short_distance))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
    if limits is not None:
        axes.set_ylim(*limits)
