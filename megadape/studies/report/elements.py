"""What the pages of reports are made of: tables, pictures, facts, and the frame around them, as HTML.

Every text is escaped here; what a function returns is put into a page as it is. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from megadape.errors import EvaluationError
from megadape.studies.report.template import PAGE, STYLE

MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
"""What a browser shows."""


@dataclass(frozen=True)
class Cell:
    """One field of a table."""

    text: str
    best: bool = False
    """Shown bold: the best of its column."""
    mark: str = ""
    """A sign behind the text that a legend explains."""
    note: str = ""
    """A few quiet words above the text: in a head, that a length is the training length."""


def cell_of(content: Cell | str) -> Cell:
    """A cell, also of plain text."""
    return content if isinstance(content, Cell) else Cell(content)


def html_table(head: Sequence[Cell | str], rows: Iterable[Sequence[Cell | str]], *, text_columns: int = 1) -> str:
    """A table that scrolls inside its own box where the page is narrow.

    Args:
        head: of each column.
        rows: of cells; the first names the row, and stays in sight.
        text_columns: how many columns from the left are words, set flush left; numbers are set flush right.
    """
    columns = "".join(
        f'<th scope="col"{_aligned(place, text_columns)}>{_content(cell)}</th>' for place, cell in enumerate(head)
    )
    body = "\n".join(f"<tr>{_row(row, text_columns)}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def embedded_figure(caption: str, path: Path, numbers: str = "") -> str:
    """A picture that the page holds, with its caption.

    Args:
        caption: says what is seen; read out where the picture is not.
        path: .png or .svg.
        numbers: name of the file with the figure's numbers, for the reader to find.

    Raises:
        EvaluationError: the picture is missing, or no format of the web.
    """
    media = MEDIA_TYPES.get(path.suffix.lower())
    if media is None:
        raise EvaluationError(f"{path} cannot stand in an HTML page: draw it as {' or '.join(MEDIA_TYPES)}")
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise EvaluationError(f"picture {path} cannot be read: {error.strerror or error}") from error
    text = escape(caption)
    beside = f" Numbers: <code>{escape(numbers)}</code>" if numbers else ""
    return (
        f'<figure><img src="data:{media};base64,{data}" alt="{text}"><figcaption>{text}{beside}</figcaption></figure>'
    )


def paragraphs(sentences: Iterable[str], style: str = "") -> str:
    """Texts, a paragraph each; ``style`` is a class of the style sheet, such as note."""
    start = f'<p class="{style}">' if style else "<p>"
    return "\n".join(f"{start}{escape(sentence)}</p>" for sentence in sentences)


def facts_list(facts: Mapping[str, str]) -> str:
    """Label and value, one below the other."""
    return "\n".join(
        ["<dl>", *(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in facts.items()), "</dl>"]
    )


def preformatted(text: str) -> str:
    """Text as it stands: commands, settings."""
    return f"<pre>{escape(text.rstrip())}</pre>"


def folded(title: str, content: str) -> str:
    """HTML that a click on its title opens."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>"


def page(title: str, body: str) -> str:
    """A whole page around a body of HTML, with the style sheet, which forbids the browser to load anything."""
    return PAGE.substitute(title=escape(title), style=STYLE, body=body)


def _row(row: Sequence[Cell | str], text_columns: int) -> str:
    first, *others = row
    cells = [f'<th scope="row">{_content(first)}</th>']
    for place, content in enumerate(others, start=1):
        classes = [
            name for name, wanted in (("best", cell_of(content).best), ("words", place < text_columns)) if wanted
        ]
        kind = f' class="{" ".join(classes)}"' if classes else ""
        cells.append(f"<td{kind}>{_content(content)}</td>")
    return "".join(cells)


def _content(content: Cell | str) -> str:
    cell = cell_of(content)
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    mark = f"<sup>{escape(cell.mark)}</sup>" if cell.mark else ""
    return f"{note}{escape(cell.text)}{mark}"


def _aligned(place: int, text_columns: int) -> str:
    return ' class="words"' if 0 < place < text_columns else ""
