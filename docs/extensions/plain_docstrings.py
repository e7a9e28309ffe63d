"""Docstrings are plain text with ``code`` in it: what else reStructuredText would take for markup is shown as it is.

A block that is indented below a paragraph (a formula, a table, a tree of files) is shown line by line, as in the
source. Runs before napoleon, which reads ``Args:``, ``Returns:`` and ``Raises:``.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx

_BEFORE_NAPOLEON = 100
_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes):$")
_MADE = re.compile(r"<[^<>]*(<[^<>]*>[^<>]*)*>")
_ITEM = re.compile(r"\s*([-*]|\d+\.)\s+")
# also the point of "hidden: D.", which would count as the first item of a list
_MARKUP = re.compile(r"(?<=\S)[*_|`]|[*_|`](?=\S)|(?<=: [A-Za-z])\.$")


def plain_lines(lines: list[str]) -> list[str]:
    """A docstring's lines with everything escaped but code, and with indented blocks marked as literal."""
    made: list[str] = []
    literal: int | None = None
    for index, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and line.strip() and _begins_block(lines, index, indent, made):
            literal = _indent_before(lines, index)
        made.append(line if literal is not None and indent > literal else _escape(line))
    return made


def _begins_block(lines: list[str], index: int, indent: int, made: list[str]) -> bool:
    """Whether an indented block begins here; its paragraph then ends with two colons."""
    before = _before(lines, index)
    if index == 0 or lines[index - 1].strip() or before is None:
        return False
    above = lines[before]
    if indent <= len(above) - len(above.lstrip()) or _SECTION.match(above.strip()) or _ITEM.match(above):
        return False
    if not above.rstrip().endswith("::"):
        made[-1:] = ["", " " * (len(above) - len(above.lstrip())) + "::", ""]
    return True


def _before(lines: list[str], index: int) -> int | None:
    return next((at for at in range(index - 1, -1, -1) if lines[at].strip()), None)


def _indent_before(lines: list[str], index: int) -> int:
    before = _before(lines, index)
    assert before is not None
    return len(lines[before]) - len(lines[before].lstrip())


def _escape(line: str) -> str:
    parts = re.split(r"(``.+?``)", line)
    return "".join(part if at % 2 else _MARKUP.sub(r"\\\g<0>", part) for at, part in enumerate(parts))


def _rewrite(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = plain_lines(lines)


def _readable_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Settings have none, being written in files: their keys are in the settings reference. A default that has no
    name in Python (``<factory>``, a function) is ``...``: Sphinx cannot parse what Python shows."""
    if isinstance(obj, type) and issubclass(obj, BaseModel):
        return "", None
    return None if signature is None else (_MADE.sub("...", signature), returns)


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("autodoc-process-docstring", _rewrite, priority=_BEFORE_NAPOLEON)
    app.connect("autodoc-process-signature", _readable_signature)
    return {"parallel_read_safe": True}
