"""``--set a.b=value``: one setting given on the command line."""

from __future__ import annotations

import re

from megadape.config.layers import merge
from megadape.config.slots import Slot
from megadape.config.tree import OVERRIDE, Node, Origin, Problem
from megadape.config.yaml_strict import Parsed, parse

_FORM = "write it as --set key.path=value, for instance --set model.num_layers=4"
_KEY = re.compile(r"[^\s.=\[\]]+(\.[^\s.=\[\]]+)*")


def read_overrides(overrides: list[str], slot: Slot) -> Parsed:
    """All overrides as one layer; among equal keys the last wins.

    Args:
        overrides: Texts of the form ``key.path=value``; the value is YAML, so lists and inline mappings work.
        slot: The slot of the root class.
    """
    layer, problems = Node({}, OVERRIDE), []
    for text in overrides:
        parsed = parse_override(text)
        problems += parsed.problems
        if parsed.root is not None:
            layer = merge(layer, parsed.root, slot, implied_kind=False)
    return Parsed(layer, problems)


def parse_override(text: str) -> Parsed:
    """One override as a tree with a single branch."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not _KEY.fullmatch(key):
        return _refuse(
            text, "what stands before the equals sign is no key path" if equals else "there is no equals sign", _FORM
        )
    if not value:
        return _refuse(
            text, "there is no value", f"write --set {key}=null for none, or --set '{key}=\"\"' for an empty text"
        )
    parsed = parse(value, lambda mark: OVERRIDE)
    path = tuple(key.split("."))
    if parsed.root is None and parsed.end == 0:
        what = parsed.problems[0].text.removeprefix("malformed YAML: ")
        return _refuse(text, f"the value is no YAML ({what})", f"put text in quotes: --set '{key}=\"...\"'")
    if parsed.end < len(value):
        quoted = value.replace('"', "'")
        return _refuse(
            text, f'the value ends before "{value[parsed.end :].strip()}"', f"quote it: '{key}=\"{quoted}\"'"
        )
    problems = [Problem(OVERRIDE, path + problem.path, problem.text) for problem in parsed.problems]
    node = parsed.root
    for part in reversed(path):
        node = Node({part: node}, OVERRIDE) if node is not None else None
    return Parsed(node, problems)


def _refuse(text: str, what: str, remedy: str) -> Parsed:
    return Parsed(None, [Problem(Origin(f"--set {text}"), (), f"{what}; {remedy}")])
