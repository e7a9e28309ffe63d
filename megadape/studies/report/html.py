"""The demo's report as one HTML page that holds its pictures and its style sheet and loads nothing."""

from __future__ import annotations

from pathlib import Path

from megadape.evaluation.figures.curves import Curves, lengths_of
from megadape.evaluation.output import write_whole
from megadape.studies.report.comparison import (
    DemoReport,
    best_of,
    check_report,
    describe_mode,
    format_cell,
    format_seconds,
)
from megadape.studies.report.elements import Cell, embedded_figure, facts_list, html_table, page, paragraphs


def write_html(report: DemoReport, path: Path) -> None:
    """Write the report as one HTML file that needs no other.

    Raises:
        EvaluationError: as ``comparison_rows``; a picture that is missing or no format of the web; an unwritable file.
    """
    check_report(report)
    parts = [
        f'<div class="summary">\n{paragraphs(report.summary)}\n</div>',
        "<h2>Perplexity by length</h2>",
        _length_table(report, report.perplexity),
        paragraphs([describe_mode(report)], "note"),
        *(embedded_figure(caption, figure) for caption, figure in report.figures),
        "<h2>Bits per byte by length</h2>",
        _length_table(report, report.bits_per_byte, decimals=3),
        "<h2>What training took</h2>",
        _training_table(report),
        "<h2>How to repeat it</h2>",
        facts_list(report.facts),
    ]
    write_whole(path, page(report.title, "\n".join(parts)))


def _length_table(report: DemoReport, curves: Curves, decimals: int = 2) -> str:
    lengths, best = lengths_of(curves), best_of(curves)
    head: list[Cell | str] = ["method"]
    head += [Cell(str(length), note="trained" if length == report.training_length else "") for length in lengths]
    rows: list[list[Cell | str]] = [
        [method, *(Cell(format_cell(curve, length, decimals), (method, length) in best) for length in lengths)]
        for method, curve in curves.items()
    ]
    return html_table(head, rows)


def _training_table(report: DemoReport) -> str:
    fastest = min(method.train_seconds for method in report.methods)
    head = ["method", "seconds", "times the fastest", "steps", "last training loss", "parameters"]
    rows = []
    for method in report.methods:
        cost = f"{method.train_seconds / fastest:.2f}" if fastest > 0 else "\N{EN DASH}"
        numbers = [format_seconds(method.train_seconds), cost, f"{method.steps:,}"]
        rows.append([method.name, *numbers, f"{method.final_loss:.3f}", f"{method.parameters:,}"])
    return html_table(head, rows)
