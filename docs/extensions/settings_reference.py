"""The settings reference: a line ``settings-of: MODULE:CLASS`` in a page becomes all keys of that class."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from as_markdown import code, definition, escape
from sphinx.application import Sphinx

from megadape.config.reference import KeyReference, SectionReference, describe_keys

_MARK = re.compile(r"^settings-of: (?P<module>[\w.]+):(?P<name>\w+)$", re.MULTILINE)


def settings_markdown(module: str, name: str) -> str:
    """All keys of a settings class as Markdown, a section for each mapping."""
    root = getattr(import_module(module), name)
    return "\n".join(_section(section, name) for section in describe_keys(root))


def _section(section: SectionReference, root: str) -> str:
    title = code(section.path) if section.path else "Top level"
    title += f", kind {code(section.kind)}" if section.kind else ""
    anchor = "-".join(word for word in ("settings", root, section.path, section.kind) if word).lower()
    parts = [f"({anchor})=", f"### {title}", "", escape(section.meaning), ""]
    return "\n".join([*parts, *(_key(key) for key in section.keys)])


def _key(key: KeyReference) -> str:
    default = "required" if key.required else f"default {code(key.default)}" if key.default is not None else ""
    head = "; ".join(part for part in (escape(key.allowed), default) if part)
    return definition(code(key.path), [head, escape(key.meaning)])


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _MARK.sub(lambda mark: settings_markdown(mark["module"], mark["name"]), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
