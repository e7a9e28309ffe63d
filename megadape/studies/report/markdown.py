"""The report as Markdown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
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
    columns, rows = compare(report, bold, escape_markdown)
    parts = [
        f"# {escape_markdown(report.title)}",
        *map(escape_markdown, report.summary),
        markdown_table(columns, rows),
        escape_markdown(describe_mode(report)),
        *(linked_figure(caption, figure, path) for caption, figure in report.figures),
        markdown_facts(report.facts),
    ]
    write_whole(path, "\n\n".join(part for part in parts if part) + "\n")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def bold(text: str) -> str:
    """Strong type."""
    return f"**{text}**"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table; the cells are put in as they are, the first columns flush left, the others flush right."""
    rule = ["---:" if place >= text_columns else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def markdown_facts(facts: Mapping[str, str]) -> str:
    """Label and value, a line each."""
    return "\n".join(f"- {escape_markdown(label)}: {escape_markdown(value)}" for label, value in facts.items())


def linked_figure(caption: str, figure: Path, page: Path) -> str:
    """A picture with its caption, linked relative to the page."""
    return f"![{escape_markdown(caption)}](<{relative_link(figure, page)}>)"


def relative_link(target: Path, page: Path) -> str:
    """What a page calls another file, quoted for a link."""
    return quote(os.path.relpath(target, page.parent))
