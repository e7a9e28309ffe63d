"""What figures look like: type, lines, and one look per method, the same in every figure.

Colour and marker tell the position encoding, so that DAPE over an encoding stands beside its baseline; DAPE is the
thick line with filled markers. What follows the encoding in a name, as d16 in dape-kerple-d16, names a variant: it
keeps the colour, and has a marker and dashes of its own. Colours are Okabe and Ito's and Paul Tol's: colour-blind
readers tell them apart, and in grey the markers do.
"""

from __future__ import annotations

import io
import re
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from megadape.errors import EvaluationError
from megadape.evaluation.output import write_whole

Look = TypeVar("Look")

FORMATS = ("png", "svg", "pdf")

COLUMN_WIDTH, PAGE_WIDTH = 3.5, 7.2
"""Inches: a paper's column and page."""

TYPOGRAPHY: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    # names are text, whatever signs they hold
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "megadape",
    "pdf.fonttype": 42,
}
"""Matplotlib's settings while a figure is drawn and saved."""

LOOKS = {
    "none": ("#555555", "X"),
    "rope": ("#0072B2", "s"),
    "yarn": ("#56B4E9", "D"),
    "randomized_rope": ("#332288", "v"),
    "t5": ("#CC79A7", "P"),
    "alibi": ("#009E73", "^"),
    "kerple_log": ("#D55E00", "o"),
    "kerple_power": ("#882255", "h"),
    "fire": ("#E69F00", "d"),
    "cope": ("#999933", "<"),
    "transformer_xl": ("#44AA99", ">"),
    "sinusoidal": ("#999999", "p"),
    "learned": ("#AA4499", "*"),
}
"""Encoding -> colour, marker."""

DASHES: dict[str, Any] = {"dape": "-", "dape_v2": (0, (4, 1.2))}
"""Kind of mixer -> line style."""

MIXED = re.compile(r"(dape(?:_v2)?)_(.+)")

VARIANTS = {
    "d4": ("v", (0, (1, 1.2))),
    "d8": ("^", (0, (2, 1.2))),
    "d16": ("D", (0, (3.5, 1.2))),
    "d32": ("s", (0, (6, 1.2))),
    "d64": ("p", (0, (9, 1.2))),
    "static": ("X", (0, (1, 2))),
    "concat": ("P", (0, (5, 1.5, 1, 1.5))),
    "add": ("*", (0, (5, 1.5, 1, 1.5, 1, 1.5))),
}
"""Variant -> marker, dashes; the more of the mixer's hidden width D, the longer the dashes."""

OTHER_MARKERS = "vDs^pX*Ph<>d8H"
OTHER_DASHES = (
    (0, (2, 1)),
    (0, (4, 1)),
    (0, (7, 1.5)),
    (0, (4, 1, 1, 1)),
    (0, (7, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)
"""Of variants that are not listed, in any combination."""


@dataclass(frozen=True)
class MethodStyle:
    """What one method's line looks like."""

    colour: str
    marker: str
    dash: Any
    emphasised: bool
    variant: bool = False
    """Of a method that has a line of its own: drawn thinner."""

    def line(self) -> dict[str, Any]:
        """Keywords of ``Axes.plot`` for the line."""
        return {
            "color": self.colour,
            "linestyle": self.dash,
            "linewidth": 1.0 if not self.emphasised else 1.3 if self.variant else 2.0,
            "solid_capstyle": "round",
            "zorder": 3 if self.emphasised else 4,  # thin lines over thick ones: both are seen
        }

    def markers(self) -> dict[str, Any]:
        """Keywords of ``Axes.plot`` for the measured points."""
        return {
            "color": self.colour,
            "linestyle": "",
            "marker": self.marker,
            "markersize": 3.8 if self.emphasised else 3.4,
            "markerfacecolor": self.colour if self.emphasised else "white",
            "markeredgewidth": 0.8,
            "zorder": 3.1 if self.emphasised else 4.1,
        }

    def text(self) -> dict[str, Any]:
        """Keywords of a label in the method's colour, darkened until it reads on white."""
        red, green, blue = (0.72 * part for part in to_rgb(self.colour))
        return {"color": (red, green, blue), "fontweight": "bold" if self.emphasised else "normal"}


def style_of(method: str) -> MethodStyle:
    """The style of a method by name, as ``rope``, ``dape-kerple`` or ``dape-kerple-d16``.

    An unknown name has one too, always the same.
    """
    name = re.sub(r"\W+", "_", method.lower())
    mixed = MIXED.fullmatch(name)
    kind, rest = mixed.groups() if mixed else (None, name)
    known, variant = split_variant(rest)
    colour, marker = LOOKS[known] if known else pick(list(LOOKS.values()), rest)
    dash = DASHES[kind] if kind else "-"
    if variant:
        others = [sign for sign in OTHER_MARKERS if sign != marker]
        marker, dash = VARIANTS.get(variant) or (pick(others, variant), pick(OTHER_DASHES, variant[::-1]))
    return MethodStyle(colour, marker, dash, kind is not None, bool(variant))


def split_variant(name: str) -> tuple[str | None, str]:
    """``kerple_d16`` -> ("kerple_log", "d16"): the encoding that a name begins with, and what follows."""
    words = name.split("_")
    for count in range(len(words), 0, -1):
        begins = "_".join(words[:count])
        known = next((key for key in LOOKS if key == begins or key.startswith(f"{begins}_")), None)
        if known:
            return known, "_".join(words[count:])
    return None, ""


def pick(choices: Sequence[Look], name: str) -> Look:
    """One of several looks for a name; crc32, not hash(): the same in every process."""
    return choices[zlib.crc32(name.encode()) % len(choices)]


def add_title(figure: Figure, title: str) -> None:
    """Put a title above a figure, flush left, broken into lines where it is too long."""
    characters = int(14 * figure.get_figwidth())
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, characters)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=8)


def plain_number(value: float, _: object = None) -> str:
    """A tick label without exponent: 0.5, 20, −4000."""
    return f"{value:.10g}".replace("-", "\N{MINUS SIGN}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the path's suffix names, whole or not at all, with the same bytes each time.

    Raises:
        EvaluationError: an unknown suffix, or an unwritable file.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise EvaluationError(f"cannot draw {path}: the name must end in one of {', '.join('.' + f for f in FORMATS)}")
    dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=200, facecolor="white", metadata=dates[form])
    write_whole(path, buffer.getvalue())
