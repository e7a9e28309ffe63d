"""Figures as a paper prints them: perplexity against length, what heads make of distance, how long documents are; a CSV
for each.

Drawn with matplotlib's objects alone (no pyplot), at the width at which they are printed. The suffix of the path
chooses the format: .png (200 dpi), .svg or .pdf, the latter two with text as text.
"""

from megadape.evaluation.figures.curves import Curves, check_curves, draw_extrapolation, write_curves_csv
from megadape.evaluation.figures.heads import draw_heads, write_heads_csv
from megadape.evaluation.figures.labels import format_value
from megadape.evaluation.figures.lengths import draw_lengths, write_lengths_csv

__all__ = [
    "Curves",
    "check_curves",
    "draw_extrapolation",
    "draw_heads",
    "draw_lengths",
    "format_value",
    "write_curves_csv",
    "write_heads_csv",
    "write_lengths_csv",
]
