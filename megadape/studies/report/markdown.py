"""The report as Markdown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from megadape.evaluation.output import write_whole
from megadape.studies.report.comparison import DemoReport, compare, describe_mode

SPECIAL = re.compile(r"([\\`*\[\]<>|#]|(?<!\w)_|_(?!\w))")
"""Signs that Markdown would read as markup; an underscore inside a word is none."""


def write_markdown(report: DemoReport, path: Path) -> None:
    """Write the report as Markdown; pictures are linked, relative to the file.

    Raises:
        EvaluationError: as ``comparison_rows``, or an unwritable file.
    """
    columns, rows = compare(report, lambda text: f"**{text}**", escape_markdown)
    table = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    parts = [
        f"# {escape_markdown(report.title)}",
        *map(escape_markdown, report.summary),
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        escape_markdown(describe_mode(report)),
        *(f"![{escape_markdown(caption)}](<{_link(figure, path)}>)" for caption, figure in report.figures),
        "\n".join(f"- {escape_markdown(label)}: {escape_markdown(value)}" for label, value in report.facts.items()),
    ]
    write_whole(path, "\n\n".join(part for part in parts if part) + "\n")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _link(figure: Path, page: Path) -> str:
    return quote(os.path.relpath(figure, page.parent))
