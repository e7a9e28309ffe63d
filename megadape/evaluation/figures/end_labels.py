"""Names at the right edge of a figure, each as near to the end of its line as the others allow, instead of a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation, Text
from matplotlib.transforms import offset_copy

from megadape.evaluation.figures.labels import spread_labels
from megadape.evaluation.figures.style import COLUMN_WIDTH, style_of

LINE_HEIGHT = 9.0  # points, from one label to the next
LABEL_OFFSET = 9.0  # points, from the axes to the labels
MOST_LABELS = 0.4  # of the width; for longer names the figure grows


@dataclass(frozen=True)
class EndLabel:
    """What stands at the right edge for one line or point."""

    method: str
    value: str
    """Written behind the name."""
    place: tuple[float, float]
    """Where the line ends, in the units of the axes."""
    dotted: bool = False
    """The line ends before the edge."""


def label_ends(figure: Figure, axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Write every label, and make room for them right of the axes; the figure's other parts must be there already."""
    notes = [_annotate(axes, label) for label in labels]
    # the text alone: an annotation's own extent includes its arrow
    width = max(Text.get_window_extent(note).width for note in notes) / figure.dpi + LABEL_OFFSET / 72
    figure.set_figwidth(max(COLUMN_WIDTH, width / MOST_LABELS))
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1 - width / figure.get_figwidth(), 1))
    # the height of the axes is known only once they are laid out
    figure.draw_without_rendering()
    to_fraction = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_fraction.transform(label.place)[1]) for label in labels]
    gap = LINE_HEIGHT / 72 * figure.dpi / axes.bbox.height
    for note, place in zip(notes, spread_labels(wanted, gap, 0.0, 1.0), strict=True):
        note.xyann = (1, place)


def _annotate(axes: Axes, label: EndLabel) -> Annotation:
    style = style_of(label.method)
    note = axes.annotate(
        f"{label.method}  {label.value}",
        label.place,
        xytext=(1, 0.5),
        textcoords=offset_copy(axes.transAxes, axes.get_figure(root=True), x=LABEL_OFFSET, units="points"),
        va="center",
        annotation_clip=False,
        arrowprops={
            "arrowstyle": "-",
            "linewidth": 0.5,
            "linestyle": ":" if label.dotted else "-",
            "color": style.colour,
            "relpos": (0, 0.5),
            "shrinkA": 1,
            "shrinkB": 3,
        },
        **style.text(),
    )
    note.set_in_layout(False)
    return note
