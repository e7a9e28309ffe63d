"""Writing settings as YAML that the strict loader reads back to the same values, one setting a line.

Text is quoted wherever a reader of YAML 1.1 *or* 1.2 would take it for something else, and numbers are written so that
both read them as numbers (``1.0e-05``): the files outlive this program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from megadape.config.tree import KeyPath, Plain
from megadape.config.yaml_strict import StrictResolver
from megadape.settings import Settings

_PLAIN = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.+-]*")


@dataclass(frozen=True)
class Line:
    """A line of YAML and the leaf that stands on it."""

    text: str
    path: KeyPath | None = None
    """None for the line that opens a section."""


def dump_yaml(settings: Settings) -> str:
    """Settings as YAML; ``load`` of the text gives equal settings."""
    return "".join(f"{line.text}\n" for line in yaml_lines(plain(settings)))


def plain(settings: Settings) -> dict[str, Plain]:
    """Settings as mappings, lists and scalars."""
    return settings.model_dump(mode="json", exclude_computed_fields=True)


def yaml_lines(data: dict[str, Plain], path: KeyPath = (), depth: int = 0) -> Iterator[Line]:
    """The lines of a mapping; lists of plain values stand on one line, lists of mappings item by item."""
    for key, value in data.items():
        start, here = f"{'  ' * depth}{scalar_text(key)}:", (*path, key)
        if not children(value):
            yield Line(f"{start} {flow_text(value)}", here)
            continue
        yield Line(start)
        if isinstance(value, dict):
            yield from yaml_lines(value, here, depth + 1)
        else:
            yield from _item_lines(value, here, depth + 1)


def leaves(data: Plain, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Plain]]:
    """Key path and value of everything that ``yaml_lines`` writes on one line."""
    parts = children(data)
    if not parts:
        yield path, data
    for key, value in parts:
        if isinstance(key, int) and not isinstance(value, dict):
            yield (*path, key), value
        else:
            yield from leaves(value, (*path, key))


def children(value: Plain) -> list[tuple[str | int, Plain]]:
    """What is written on lines of its own below a key: entries of mappings, items of lists that hold mappings."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list) and any(isinstance(item, dict) and item for item in value):
        return list(enumerate(value))
    return []


def scalar_text(value: Plain) -> str:
    """A scalar as it stands in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _float_text(value)
    return str(value) if isinstance(value, int) else _quote_if_needed(str(value))


def flow_text(value: Plain) -> str:
    """A value on one line: a scalar, ``[1, 2]`` or ``{a: 1}``."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar_text(key)}: {flow_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow_text(item) for item in value) + "]"
    return scalar_text(value)


def _item_lines(items: Plain, path: KeyPath, depth: int) -> Iterator[Line]:
    indent = "  " * depth
    for index, item in children(items):
        here = (*path, index)
        if not isinstance(item, dict) or not item:
            yield Line(f"{indent}- {flow_text(item)}", here)
            continue
        first, *rest = yaml_lines(item, here, depth + 1)
        yield Line(f"{indent}- {first.text.lstrip()}", first.path)
        yield from rest


def _float_text(value: float) -> str:
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    mantissa, e, exponent = text.partition("e")
    return text if "." in mantissa or not e else f"{mantissa}.0e{exponent}"


def _quote_if_needed(text: str) -> str:
    readers = (StrictResolver, yaml.resolver.Resolver)
    if _PLAIN.fullmatch(text) and text != "..." and all(_is_text(reader, text) for reader in readers):
        return text
    # the dumper escapes what YAML does not allow; an infinite width keeps the text on one line
    quoted: str = yaml.dump(text, Dumper=yaml.SafeDumper, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.rstrip("\n")


def _is_text(reader: type[yaml.resolver.Resolver], text: str) -> bool:
    return bool(reader().resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str")
