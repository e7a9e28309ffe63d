"""A report as a list of blocks, each of which can show itself in HTML and in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Protocol

from megadape.evaluation.output import write_whole
from megadape.studies.report.elements import (
    Cell,
    cell_of,
    embedded_figure,
    facts_list,
    folded,
    html_table,
    page,
    paragraphs,
    preformatted,
)
from megadape.studies.report.markdown import (
    bold,
    escape_markdown,
    linked_figure,
    markdown_facts,
    markdown_table,
    relative_link,
)


class Block(Protocol):
    """One part of a report."""

    def html(self) -> str:
        """For a page."""

    def markdown(self, target: Path) -> str:
        """For a Markdown file at that path."""


@dataclass(frozen=True)
class Heading:
    """A title of what follows."""

    text: str
    level: int = 2

    def html(self) -> str:
        """As a heading."""
        return f"<h{self.level}>{escape(self.text)}</h{self.level}>"

    def markdown(self, target: Path) -> str:
        """As a heading."""
        return f"{'#' * self.level} {escape_markdown(self.text)}"


@dataclass(frozen=True)
class Prose:
    """Sentences, a paragraph each."""

    sentences: Sequence[str]
    style: str = ""
    """summary (larger), note (quieter), or neither."""

    def html(self) -> str:
        """Paragraphs; a summary in a box of its own."""
        if self.style == "summary":
            return f'<div class="summary">\n{paragraphs(self.sentences)}\n</div>'
        return paragraphs(self.sentences, self.style)

    def markdown(self, target: Path) -> str:
        """Paragraphs."""
        return "\n\n".join(map(escape_markdown, self.sentences))


@dataclass(frozen=True)
class Table:
    """A head and rows; see ``html_table``."""

    head: Sequence[Cell | str]
    rows: Sequence[Sequence[Cell | str]]
    text_columns: int = 1

    def html(self) -> str:
        """In a box that scrolls."""
        return html_table(self.head, self.rows, text_columns=self.text_columns)

    def markdown(self, target: Path) -> str:
        """As a pipe table, what is best in bold."""
        head, *rows = ([_markdown_cell(cell_of(cell)) for cell in row] for row in (self.head, *self.rows))
        return markdown_table(head, rows, text_columns=self.text_columns)


@dataclass(frozen=True)
class Picture:
    """A figure and the file of its numbers, which stand in one folder."""

    caption: str
    path: Path
    numbers: Path

    def html(self) -> str:
        """Held by the page itself."""
        return embedded_figure(self.caption, self.path, self.numbers.name)

    def markdown(self, target: Path) -> str:
        """Linked, with its numbers."""
        numbers = f"Numbers: [{escape_markdown(self.numbers.name)}](<{relative_link(self.numbers, target)}>)"
        return f"{linked_figure(self.path.stem, self.path, target)}\n\n{escape_markdown(self.caption)} {numbers}"


@dataclass(frozen=True)
class Facts:
    """Labels and values."""

    facts: Mapping[str, str]

    def html(self) -> str:
        """As a list."""
        return facts_list(self.facts)

    def markdown(self, target: Path) -> str:
        """As a list."""
        return markdown_facts(self.facts)


@dataclass(frozen=True)
class Listing:
    """Text that is shown sign for sign."""

    text: str

    def html(self) -> str:
        """In a box that scrolls."""
        return preformatted(self.text)

    def markdown(self, target: Path) -> str:
        """Fenced, whatever the text holds."""
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", self.text)), default=0))
        return f"{fence}\n{self.text.rstrip()}\n{fence}"


@dataclass(frozen=True)
class Folded:
    """Blocks that the page shows when its title is clicked; Markdown shows them under a small heading."""

    title: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """Closed at first."""
        return folded(self.title, "\n".join(block.html() for block in self.blocks))

    def markdown(self, target: Path) -> str:
        """Open."""
        return "\n\n".join([f"#### {escape_markdown(self.title)}", *(block.markdown(target) for block in self.blocks)])


def write_report(title: str, blocks: Sequence[Block], folder: Path, stem: str = "report") -> list[Path]:
    """Write a report as one HTML page that stands alone, and as Markdown beside it; the same bytes each time.

    Raises:
        EvaluationError: a picture is missing, or a file cannot be written.
    """
    html, text = folder / f"{stem}.html", folder / f"{stem}.md"
    whole = page(title, "\n".join(block.html() for block in blocks))
    lines = [f"# {escape_markdown(title)}", *(block.markdown(text) for block in blocks)]
    write_whole(html, whole)
    write_whole(text, "\n\n".join(line for line in lines if line) + "\n")
    return [html, text]


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(" ".join(part for part in (cell.note, cell.text) if part))
    return (bold(text) if cell.best and text else text) + escape_markdown(cell.mark)
