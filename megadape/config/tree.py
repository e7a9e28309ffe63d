"""Plain settings data that remembers where every key was typed.

A settings tree is nested mappings, lists and scalars like the YAML that it came from, but each key and each list item
carries an ``Origin``. Layering, error messages and ``megadape config show`` all read this one structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

KeyPath = tuple[str | int, ...]
"""Where a value stands in the tree: ``("data", "sources", 0, "weight")``."""

Scalar: TypeAlias = bool | int | float | str | None
Plain: TypeAlias = Scalar | list["Plain"] | dict[str, "Plain"]
"""Data as YAML holds it."""


@dataclass(frozen=True)
class Origin:
    """Who set a value: a line of a file, ``--set``, or nobody (the default of its class)."""

    source: str
    """Path of the file as the user gave it, or ``--set``, or ``default``."""

    line: int | None = None
    """Counted from 1; None where a line has no meaning."""

    column: int | None = None
    """Counted from 1; given for malformed YAML only."""

    def __str__(self) -> str:
        """``file:line``, as an editor understands it."""
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


DEFAULT = Origin("default")
OVERRIDE = Origin("--set")


@dataclass(frozen=True)
class Node:
    """A value with its origin; for a value in a mapping that is the line of its key."""

    value: Scalar | list[Node] | dict[str, Node]
    origin: Origin

    @property
    def entries(self) -> dict[str, Node]:
        """The entries of a mapping; nothing for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def plain(self) -> Plain:
        """The data without origins."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, key: str | int) -> Node | None:
        """The entry of a mapping or the item of a list, if it is there."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def find(self, path: KeyPath) -> Node | None:
        """The node at a path, if somebody set it."""
        node: Node | None = self
        for key in path:
            node = node.child(key) if node is not None else None
        return node

    def origin_at(self, path: KeyPath) -> Origin:
        """Who set the value at a path.

        Below a scalar the scalar itself answers: a class may expand a shorthand into several keys.
        """
        node = self
        for key in path:
            child = node.child(key)
            if child is None:
                return DEFAULT if isinstance(node.value, dict) else node.origin
            node = child
        return node.origin


def to_node(data: Plain, origin: Origin) -> Node:
    """Plain data as a tree, all of it from one origin."""
    if isinstance(data, dict):
        return Node({key: to_node(value, origin) for key, value in data.items()}, origin)
    if isinstance(data, list):
        return Node([to_node(value, origin) for value in data], origin)
    return Node(data, origin)


@dataclass(frozen=True)
class Problem:
    """One mistake of the user."""

    origin: Origin | None
    path: KeyPath
    text: str
    """What is wrong, what was given, what is allowed."""

    def __str__(self) -> str:
        """``file:line: key.path: what is wrong``."""
        if self.origin == OVERRIDE and self.path:
            return f"{self.origin} {dotted(self.path)}: {self.text}"
        where = [str(self.origin)] if self.origin is not None else []
        what = [dotted(self.path)] if self.path else []
        return ": ".join([*where, *what, self.text])


def dotted(path: KeyPath) -> str:
    """A key path as people write it: ``data.sources[0].weight``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")
