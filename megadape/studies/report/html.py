"""The report as one HTML page that holds its pictures and its style sheet and loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from megadape.errors import EvaluationError
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
from megadape.studies.report.template import PAGE, STYLE

MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
"""What a browser shows."""

Cell = tuple[str, bool]
"""Text, and whether it is the best of its column."""


def write_html(report: DemoReport, path: Path) -> None:
    """Write the report as one HTML file that needs no other.

    Raises:
        EvaluationError: as ``comparison_rows``; a picture that is missing or no format of the web; an unwritable file.
    """
    check_report(report)
    page = PAGE.substitute(
        title=escape(report.title),
        style=STYLE,
        summary="\n".join(f"<p>{escape(sentence)}</p>" for sentence in report.summary),
        perplexity=_length_table(report, report.perplexity),
        note=escape(describe_mode(report)),
        figures="\n".join(_figure(caption, figure) for caption, figure in report.figures),
        bits_per_byte=_length_table(report, report.bits_per_byte, decimals=3),
        training=_training_table(report),
        facts="\n".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in report.facts.items()),
    )
    write_whole(path, page)


def _length_table(report: DemoReport, curves: Curves, decimals: int = 2) -> str:
    lengths, best = lengths_of(curves), best_of(curves)
    trained = "<small>trained</small>"
    head = ["method", *(f"{trained if length == report.training_length else ''}{length}" for length in lengths)]
    rows = [
        (method, [(format_cell(curve, length, decimals), (method, length) in best) for length in lengths])
        for method, curve in curves.items()
    ]
    return _table(head, rows)


def _training_table(report: DemoReport) -> str:
    fastest = min(method.train_seconds for method in report.methods)
    head = ["method", "seconds", "times the fastest", "steps", "last training loss", "parameters"]
    rows = []
    for method in report.methods:
        cost = f"{method.train_seconds / fastest:.2f}" if fastest > 0 else "\N{EN DASH}"
        numbers = [format_seconds(method.train_seconds), cost, f"{method.steps:,}"]
        numbers += [f"{method.final_loss:.3f}", f"{method.parameters:,}"]
        rows.append((method.name, [(number, False) for number in numbers]))
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Cell]]]) -> str:
    """An HTML table of rows of a name and cells; the head is put in as it is."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cell, cells))}</tr>' for name, cells in rows
    )
    return f'<div class="scroll"><table>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cell(cell: Cell) -> str:
    text, best = cell
    return f'<td class="best">{escape(text)}</td>' if best else f"<td>{escape(text)}</td>"


def _figure(caption: str, path: Path) -> str:
    media = MEDIA_TYPES.get(path.suffix.lower())
    if media is None:
        raise EvaluationError(f"{path} cannot stand in an HTML page: draw it as {' or '.join(MEDIA_TYPES)}")
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise EvaluationError(f"picture {path} cannot be read: {error.strerror or error}") from error
    text = escape(caption)
    return f'<figure><img src="data:{media};base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
