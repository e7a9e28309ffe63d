"""Figures as a paper prints them, each with a CSV: perplexity against length, quality against cost, loss by position,
passkeys found, what heads make of distance, how long documents are.

Drawn with matplotlib's objects alone (no pyplot), at the width at which they are printed. The suffix of the path
chooses the format: .png (200 dpi), .svg or .pdf, the latter two with text as text.
"""

from megadape.evaluation.figures.costs import draw_costs, write_costs_csv
from megadape.evaluation.figures.curves import Bands, Curves, check_curves, draw_extrapolation, write_curves_csv
from megadape.evaluation.figures.heads import draw_heads, write_heads_csv
from megadape.evaluation.figures.labels import format_value
from megadape.evaluation.figures.lengths import draw_lengths, write_lengths_csv
from megadape.evaluation.figures.passkey import draw_passkey, write_passkey_csv
from megadape.evaluation.figures.positions import draw_positions, write_positions_csv

__all__ = [
    "Bands",
    "Curves",
    "check_curves",
    "draw_costs",
    "draw_extrapolation",
    "draw_heads",
    "draw_lengths",
    "draw_passkey",
    "draw_positions",
    "format_value",
    "write_costs_csv",
    "write_curves_csv",
    "write_heads_csv",
    "write_lengths_csv",
    "write_passkey_csv",
    "write_positions_csv",
]
