"""YAML without its surprises: PyYAML's safe loader made strict.

Plain values are read by the core schema of YAML 1.2, not by the 1.1 rules of PyYAML: ``1e-3`` and ``.5`` are numbers,
``no``, ``12:30:00``, ``1_000``, ``2024-01-01`` are the text that was typed. Numbers with leading zeros (``010``,
``0o10``) stay text as well, since half of the world's readers take them for octal. Equal keys, keys that are not text,
merge keys (``<<``), tags outside the core schema and several documents in one file are mistakes, each with its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from megadape.config.tree import KeyPath, Node, Origin, Problem, Scalar

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    # tag: (what it matches, the characters that it can start with)
    "null": (r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": ("<<", ["<"]),
}
_PATTERNS = {_TAG + name: re.compile(rf"(?:{pattern})\Z") for name, (pattern, _) in _CORE_SCHEMA.items()}

_MAX_NODES = 100_000
"""Bound on a file's values once its aliases are expanded: nested aliases grow without limit."""

_MAX_DEPTH = 64

_MAX_INT = 2**63 - 1
"""Of either sign: what counts, sizes arrays or is a seed has 64 bits."""


class StrictResolver(yaml.resolver.Resolver):
    """Reads plain scalars by the core schema of YAML 1.2."""

    # a class attribute, though the stubs of PyYAML declare it on instances
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012


for _name, (_, _first) in _CORE_SCHEMA.items():
    StrictResolver.add_implicit_resolver(_TAG + _name, _PATTERNS[_TAG + _name], _first)


class _Loader(StrictResolver, yaml.SafeLoader):
    """PyYAML's safe loader with the strict resolver; its nodes go to ``_Builder``."""


@dataclass(frozen=True)
class Parsed:
    """What a text holds."""

    root: Node | None
    """The data; None if the text is no YAML at all."""

    problems: list[Problem] = field(default_factory=list)
    """Mistakes; values that could not be read are left out of ``root``."""

    end: int = 0
    """Index in the text behind the value; only blanks and comments may follow."""


Where = Callable[[yaml.Mark], Origin]


def parse(text: str, where: Where) -> Parsed:
    """Read one YAML document.

    Args:
        text: The document.
        where: Turns a mark of PyYAML (line and column counted from 0) into the origin of the value that starts there.
    """
    try:
        node = compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        assert mark is not None, "PyYAML marks every syntax error"
        return Parsed(None, [Problem(_with_column(where(mark), mark), (), _syntax(error))])
    except yaml.reader.ReaderError as error:
        mark = _mark_at(text, error.position)
        character = f"U+{int(error.character):04X}" if isinstance(error.character, int) else repr(error.character)
        message = f"holds the character {character}, which YAML does not allow"
        return Parsed(None, [Problem(_with_column(where(mark), mark), (), message)])
    if node is None or (isinstance(node, yaml.ScalarNode) and node.style is None and not node.value):
        return Parsed(Node({}, where(_mark_at(text, 0))))
    builder = _Builder(where)
    root = builder.build(node, where(node.start_mark), ())
    return Parsed(root, builder.problems, node.end_mark.index)


def compose(text: str) -> yaml.Node | None:
    """The graph of YAML nodes of a text, None for an empty one; raises ``yaml.YAMLError``."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="nested too deeply to be read", problem_mark=loader.get_mark()) from None
    except (ValueError, OverflowError):
        # escapes beyond U+10FFFF go to chr() unchecked
        raise yaml.MarkedYAMLError(problem="not a Unicode character", problem_mark=loader.get_mark()) from None
    finally:
        loader.dispose()


class _Builder:
    """Turns PyYAML's nodes into ours and collects what is wrong with them."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self.problems: list[Problem] = []
        self.open: set[int] = set()
        self.count = 0

    def build(self, node: yaml.Node, origin: Origin, path: KeyPath) -> Node | None:
        """The value of a node, or None after noting why there is none."""
        self.count += 1
        if self.count > _MAX_NODES:
            if self.count == _MAX_NODES + 1:
                self.refuse(origin, path, f"its aliases expand to more than {_MAX_NODES:,} values")
            return None
        if len(path) > _MAX_DEPTH:
            self.refuse(origin, path[:3], f"is nested more than {_MAX_DEPTH} levels deep")
            return None
        if id(node) in self.open:
            self.refuse(origin, path, "the alias stands inside the value that it repeats")
            return None
        self.open.add(id(node))
        try:
            return self.dispatch(node, origin, path)
        finally:
            self.open.remove(id(node))

    def dispatch(self, node: yaml.Node, origin: Origin, path: KeyPath) -> Node | None:
        """By the kind of node; a tag outside the core schema is refused."""
        if isinstance(node, yaml.ScalarNode) and node.tag in _CONVERT:
            return self.scalar(node, origin, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return self.sequence(node, origin, path)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, origin, path)
        tag = node.tag.replace(_TAG, "!!")
        self.refuse(origin, path, f"the tag {tag} is not allowed; write plain values, lists and mappings")
        return None

    def scalar(self, node: yaml.ScalarNode, origin: Origin, path: KeyPath) -> Node | None:
        """Text, number, truth value or null."""
        pattern = _PATTERNS.get(node.tag)
        if pattern is not None and not pattern.match(node.value):
            self.refuse(origin, path, f'"{node.value}" does not fit its tag {node.tag.replace(_TAG, "!!")}')
            return None
        try:
            node.value.encode()
            value = _CONVERT[node.tag](node.value)
            if isinstance(value, int) and abs(value) > _MAX_INT:
                self.refuse(origin, path, f"the number is beyond {_MAX_INT:,}, the largest that can be used")
                return None
            return Node(value, origin)
        except UnicodeEncodeError:
            self.refuse(origin, path, "the text holds half of a surrogate pair; write the character itself")
            return None
        except ValueError:
            self.refuse(origin, path, f"the number has {len(node.value):,} digits, more than can be read")
            return None

    def sequence(self, node: yaml.SequenceNode, origin: Origin, path: KeyPath) -> Node | None:
        """A list; left out as a whole when an item is, since the others would change their place."""
        items = [self.build(item, self.where(item.start_mark), (*path, index)) for index, item in enumerate(node.value)]
        kept = [item for item in items if item is not None]
        return Node(kept, origin) if len(kept) == len(items) else None

    def mapping(self, node: yaml.MappingNode, origin: Origin, path: KeyPath) -> Node:
        """A mapping; of equal keys the first is kept."""
        entries: dict[str, Node] = {}
        first: dict[str, Origin] = {}
        for key_node, value_node in node.value:
            where = self.where(key_node.start_mark)
            key = self.key(key_node, where, path)
            if key is None:
                continue
            if key in first:
                self.refuse(where, (*path, key), f"the key is given twice, first at {first[key]}; keep one")
                continue
            first[key] = where
            child = self.build(value_node, where, (*path, key))
            if child is not None:
                entries[key] = child
        return Node(entries, origin)

    def key(self, node: yaml.Node, origin: Origin, path: KeyPath) -> str | None:
        """A key, which must be text."""
        if not isinstance(node, yaml.ScalarNode):
            self.refuse(origin, path, "a key must be text, not a list or a mapping")
        elif node.tag == _TAG + "merge":
            self.refuse(
                origin, path, "merge keys (<<) are not supported; write the keys out, or layer a file that has them"
            )
        elif node.tag != _TAG + "str":
            shown = node.value or "nothing"
            self.refuse(origin, path, f'a key must be text, not {shown}; put it in quotes: "{node.value}"')
        else:
            key = self.scalar(node, origin, path)
            return None if key is None else str(key.value)
        return None

    def refuse(self, origin: Origin, path: KeyPath, text: str) -> None:
        """Note a mistake."""
        self.problems.append(Problem(origin, path, text))


def _float(text: str) -> float:
    special = text.lower().lstrip("+-")
    if special == ".nan":
        return math.nan
    if special == ".inf":
        return -math.inf if text.startswith("-") else math.inf
    return float(text)


def _int(text: str) -> int:
    return int(text, 16 if text.startswith("0x") else 10)


_CONVERT: dict[str, Callable[[str], Scalar]] = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": _int,
    _TAG + "float": _float,
    _TAG + "str": str,
    # "<<" as a value is nothing special
    _TAG + "merge": str,
}


def _mark_at(text: str, position: int) -> yaml.Mark:
    line_start = text.rfind("\n", 0, position) + 1
    return yaml.Mark("", position, text.count("\n", 0, position), position - line_start, None, 0)


def _with_column(origin: Origin, mark: yaml.Mark) -> Origin:
    return Origin(origin.source, origin.line, mark.column + 1) if origin.line is not None else origin


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be read"
    if r"'\t'" in problem:
        return "a tab stands where only spaces are allowed; indent with spaces"
    if "but found another document" in problem:
        return "a second document starts here; a settings file holds one, so remove the --- or split the file"
    if "mapping values are not allowed" in problem:
        return "malformed YAML: a colon is not allowed here; check the indentation, or put the text in quotes"
    return f"malformed YAML: {problem}"
