"""The command reference: a line ``commands-of: MODULE:APP`` in a page becomes every command with its options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from typing import Any

import typer
from as_markdown import code, definition, escape
from sphinx.application import Sphinx
from typer.core import TyperGroup

_MARK = re.compile(r"^commands-of: (?P<module>[\w.]+):(?P<name>\w+)$", re.MULTILINE)
_EXAMPLE = "Example:"


def commands_markdown(module: str, name: str) -> str:
    """Every command that is not hidden, as Markdown."""
    root = typer.main.get_command(getattr(import_module(module), name))
    return "\n".join(_command(command, words) for command, words in _walk(root, ("megadape",)))


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:  # noqa: ANN401
    if len(words) > 1:
        yield command, words
    if isinstance(command, TyperGroup):
        for name, child in sorted(command.commands.items()):
            if not child.hidden:
                yield from _walk(child, (*words, name))


def _command(command: Any, words: tuple[str, ...]) -> str:  # noqa: ANN401
    title = " ".join(words)
    level = "#" * len(words)
    parts = [f"({'-'.join(words)})=", f"{level} {code(title)}", "", *_help(command.help or "")]
    if isinstance(command, TyperGroup):
        return "\n".join([*parts, ""])
    context = typer.Context(command)
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    shown = [record for record in records if record is not None and record[0] != "--help"]
    return "\n".join([*parts, *(definition(code(names), [escape(words)]) for names, words in shown), ""])


def _help(text: str) -> Iterator[str]:
    """Paragraphs as they are, examples as code."""
    for paragraph in cleandoc(text).split("\n\n"):
        line = " ".join(paragraph.split())
        if line.startswith(_EXAMPLE):
            yield from ("```sh", line.removeprefix(_EXAMPLE).strip(), "```", "")
        else:
            yield from (escape(line), "")


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _MARK.sub(lambda mark: commands_markdown(mark["module"], mark["name"]), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
