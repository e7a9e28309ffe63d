"""What is written in the pages: code blocks, commands, paths, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REPORTS = sorted((DOCS / "results").rglob("*.md"))
"""Written by megadape study report."""
BUILT = sorted(set(DOCS.rglob("*.md")) - set(REPORTS))
"""What Sphinx makes pages of."""
PAGES = [*BUILT, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))

_OPTION = re.compile(r":(\w+): (.*)")


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    caption: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order; one that is indented has the language ``text``."""
    for token in MarkdownIt().parse(page.read_text()):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "code_block":
            yield Block("text", "", token.content, line)
        elif token.type == "fence":
            directive = re.fullmatch(r"\{(code-block|literalinclude|toctree|eval-rst)\}\s*(\w*)", token.info.strip())
            if directive is None:
                yield Block(token.info.strip(), "", token.content, line)
            elif directive[1] == "code-block":
                options, text = _options(token.content)
                yield Block(directive[2], options.get("caption", ""), text, line)


def _options(content: str) -> tuple[dict[str, str], str]:
    options: dict[str, str] = {}
    lines = content.splitlines(keepends=True)
    while lines and (found := _OPTION.fullmatch(lines[0].rstrip("\n"))):
        options[found[1]] = found[2]
        del lines[0]
    return options, "".join(lines).lstrip("\n")


def inline(page: Path, kind: str) -> Iterator[Token]:
    """The tokens of a kind (``code_inline``, ``link_open``, ``image``) within paragraphs, tables and lists."""
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        yield from (child for child in token.children or () if child.type == kind)


def logical_lines(text: str) -> Iterator[str]:
    """The lines of a block of shell, those that end with a backslash joined to the next."""
    yield from (line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip())


def megadape_words(line: str) -> list[str] | None:
    """The arguments of the ``megadape`` command on a line, up to whatever the shell does with it; None without one."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return None
    for start, word in enumerate(words):
        by_module = word == "-m" and words[start + 1 : start + 2] == ["megadape"]
        if by_module or (word == "megadape" and (start == 0 or words[start - 1] in ("do", "&&", ";"))):
            rest = words[start + 1 + by_module :]
            end = next((at for at, one in enumerate(rest) if set(one) <= set("|;&<>()")), len(rest))
            return rest[:end]
    return None
