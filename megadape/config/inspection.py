"""What ``megadape config show``, ``diff`` and ``schema`` print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from megadape.config.loading import Loaded, default_root
from megadape.config.tree import DEFAULT, KeyPath, Origin, Plain, dotted
from megadape.config.validation import SettingsT
from megadape.config.yaml_write import children, flow_text, leaves, plain, yaml_lines
from megadape.settings import Settings

_WIDEST = 60
"""Column beyond which a long value does not push the comments of the others."""


class Absent:
    """Stands for the value of a setting that one side does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()

Side: TypeAlias = Plain | Absent
"""The value that one side of a comparison has."""


class Difference(NamedTuple):
    """A setting that differs."""

    key: str
    value_a: Side
    value_b: Side


def show(loaded: Loaded[SettingsT]) -> str:
    """Resolved settings as YAML, the origin of each value as a comment; ``load`` of the text gives equal settings."""
    lines = list(yaml_lines(plain(loaded.settings)))
    widths = [len(line.text) for line in lines if len(line.text) <= _WIDEST]
    column = max(widths, default=0)
    shown = [
        line.text
        if line.path is None
        else f"{line.text:<{column}}  # {_comment(loaded.origins.get(line.path, DEFAULT))}"
        for line in lines
    ]
    return "".join(f"{line}\n" for line in shown)


def diff(a: Settings, b: Settings) -> list[Difference]:
    """The settings in which two runs differ, in the order of their classes; what one side lacks is ``ABSENT``."""
    pairs = _pairs(plain(a), plain(b), ())
    return [Difference(dotted(path), left, right) for path, left, right in pairs if not _same(left, right)]


def render_diff(differences: list[Difference], name_a: str, name_b: str) -> str:
    """Differences as an aligned table; one sentence when there are none."""
    if not differences:
        return f"{name_a} and {name_b} hold the same settings\n"
    rows = [("", name_a, name_b)]
    rows += [(key, _value(value_a), _value(value_b)) for key, value_a, value_b in differences]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def schema(root: type[Settings] | None = None) -> dict[str, Any]:
    """The JSON Schema of a settings file, with the documentation of every key, for editors that complete and check.

    Args:
        root: The root class; ``RunSettings`` if not given.
    """
    root = root or default_root()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root.model_json_schema()}


def _pairs(a: Side, b: Side, path: KeyPath) -> Iterator[tuple[KeyPath, Side, Side]]:
    """The leaves of both sides, side by side."""
    ours = {} if isinstance(a, Absent) else dict(children(a))
    theirs = {} if isinstance(b, Absent) else dict(children(b))
    if ours and theirs:
        for key in {**ours, **theirs}:
            yield from _pairs(ours.get(key, ABSENT), theirs.get(key, ABSENT), (*path, key))
        return
    left = {} if isinstance(a, Absent) else dict(leaves(a, path))
    right = {} if isinstance(b, Absent) else dict(leaves(b, path))
    yield from ((key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in {**left, **right})


def _same(a: Side, b: Side) -> bool:
    return type(a) is type(b) and bool(a == b)


def _value(value: Side) -> str:
    return "-" if isinstance(value, Absent) else flow_text(value)


def _comment(origin: Origin) -> str:
    # a line break in a file's name would end the comment
    return " ".join(str(origin).split())
