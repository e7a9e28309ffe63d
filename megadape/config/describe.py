"""Plain words for what may stand in a slot, for what was given, and for how to mend the usual slips."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from megadape.config.slots import Slot, literal_values
from megadape.config.tree import Node
from megadape.config.yaml_write import scalar_text
from megadape.training.supervision.durations import parse_duration

_LONGEST = 60


def allowed(slot: Slot) -> str:
    """What may stand here: ``a whole number of at least 1``, ``one of fp32, bf16, fp16``."""
    if slot.tags:
        words = [f"a mapping whose {slot.tag_key} is {one_of(list(slot.tags))}"]
    else:
        words = [_alternative(member) for member in slot.alternatives if get_origin(member.annotation) is not Literal]
        literals = literal_values(slot)
        words += [one_of([scalar_text(value) for value in literals])] if literals else []
    return ", or ".join(words) + (" or null" if slot.nullable else "")


def given(node: Node | None) -> str:
    """What was given, as it could stand in YAML; text in quotes, so that it cannot be taken for a number."""
    if node is None:
        return "nothing"
    data = node.plain()
    text = json.dumps(data, ensure_ascii=False) if isinstance(data, str | list | dict) else scalar_text(data)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def one_of(values: list[str]) -> str:
    """``a`` or ``one of a, b``."""
    return values[0] if len(values) == 1 else f"one of {', '.join(values)}"


def remedy(slot: Slot, node: Node | None) -> str | None:
    """What the user probably meant, for slips that everybody makes; None if there is nothing to suggest."""
    value = node.value if node is not None else None
    types = {member.annotation for member in slot.alternatives}
    container = slot.container
    if isinstance(value, str):
        return _remedy_for_text(value, types, slot)
    if isinstance(value, float) and value.is_integer() and int in types:
        return f"write {int(value)}"
    if isinstance(value, bool | int | float) and types & {str, Path}:
        return f'put it in quotes: "{scalar_text(value)}"'
    if container is list and isinstance(value, bool | int | float):
        return f"write a list: [{scalar_text(value)}]"
    return None


def did_you_mean(value: str, choices: list[str]) -> str | None:
    """The choice that is most like a value, if one is."""
    near = difflib.get_close_matches(value.lower(), choices, n=1)
    return near[0] if near else None


def _remedy_for_text(value: str, types: set[object], slot: Slot) -> str | None:
    bare = value.replace("_", "").strip()
    quoted = " without quotes" if bare == value else ""
    if types & {int, float} and _WHOLE.fullmatch(bare):
        number = str(int(bare))
        return f"write {number}{quoted if number == bare else ''}"
    if float in types and _NUMBER.fullmatch(bare):
        return f"write {bare}{quoted}"
    if bool in types and value.lower() in _TRUTH:
        return f"write {_TRUTH[value.lower()]}"
    if slot.container is list:
        return f"write a list: [{value}]"
    near = did_you_mean(value, [*_choices(slot), *slot.tags])
    if near in slot.tags:
        return f"write {{{slot.tag_key}: {near}}}"
    return f"did you mean {near}?" if near else None


def _choices(slot: Slot) -> list[str]:
    kinds = [member.annotation for member in slot.alternatives]
    members = [item.value for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for item in kind]
    return [str(value) for value in [*literal_values(slot), *members]]


_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUTH = dict.fromkeys(("true", "yes", "on", "y"), "true") | dict.fromkeys(("false", "no", "off", "n"), "false")


def _alternative(slot: Slot) -> str:
    """One member of a union in words."""
    kind = get_origin(slot.annotation) or slot.annotation
    if slot.tags:
        return allowed(slot)
    if slot.model is not None:
        return _section(slot.model)
    if slot.container is dict:
        return f"a mapping, each value {allowed(slot.item(0))}" if get_args(slot.annotation) else "a mapping"
    if slot.container is list:
        return _list(slot)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return one_of([str(item.value) for item in kind])
    if kind in _WORDS:
        return _WORDS[kind](_Limits(slot.metadata))
    return f"a value of type {getattr(kind, '__name__', kind)}"


def _section(model: type[BaseModel]) -> str:
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    if required:
        return f"a mapping that gives at least {', '.join(required)}"
    return f"a mapping with keys such as {', '.join(list(model.model_fields)[:4])}"


class _Limits:
    """The bounds among a slot's constraints."""

    def __init__(self, metadata: tuple[Any, ...]) -> None:
        self.metadata = metadata

    def get(self, name: str) -> float | None:
        """The value of one bound (``ge``, ``max_length``), None if it is not set."""
        return next((found for item in self.metadata if (found := getattr(item, name, None)) is not None), None)


def _whole_number(limits: _Limits) -> str:
    above, below, low, high = (limits.get(name) for name in ("gt", "lt", "ge", "le"))
    low = above + 1 if above is not None else low
    high = below - 1 if below is not None else high
    return "a whole number" + _range(_phrase("of at least", low), _phrase("at most", high), limits)


def _number(limits: _Limits) -> str:
    if any(getattr(item, "func", None) is parse_duration for item in limits.metadata):
        return "a duration, such as 90s, 10m or 1h30m (a plain number is seconds)"
    low = _phrase("above", limits.get("gt")) or _phrase("of at least", limits.get("ge"))
    high = _phrase("below", limits.get("lt")) or _phrase("at most", limits.get("le"))
    return "a number" + _range(low, high, limits)


def _phrase(words: str, bound: float | None) -> str:
    return "" if bound is None else f"{words} {scalar_text(bound)}"


def _range(low: str, high: str, limits: _Limits) -> str:
    if high.startswith("at most") and not low:
        high = f"of {high}"
    multiple = limits.get("multiple_of")
    parts = [low, high, f"a multiple of {scalar_text(multiple)}" if multiple is not None else ""]
    words = " and ".join(part for part in parts if part)
    return f" {words}" if words else ""


def _text(limits: _Limits) -> str:
    shortest, longest = limits.get("min_length"), limits.get("max_length")
    patterns = [item.pattern for item in limits.metadata if getattr(item, "pattern", None) is not None]
    words = "text"
    if shortest is not None:
        words += " that is not empty" if shortest == 1 else f" of at least {shortest} characters"
    if longest is not None:
        words += f" of at most {longest} characters"
    return f"{words} that matches {getattr(patterns[0], 'pattern', patterns[0])}" if patterns else words


def _list(slot: Slot) -> str:
    limits, arguments = _Limits(slot.metadata), get_args(slot.annotation)
    shortest, longest = limits.get("min_length"), limits.get("max_length")
    if get_origin(slot.annotation) is tuple and arguments and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {', then '.join(allowed(Slot.of(item)) for item in arguments)}"
    exactly = f" of exactly {shortest}" if shortest == longest and shortest is not None else None
    bounds = [f"at least {shortest}"] if shortest is not None else []
    bounds += [f"at most {longest}"] if longest is not None else []
    words = "a list" + (exactly or (f" of {' and '.join(bounds)}" if bounds else ""))
    return f"{words}, each item {allowed(slot.item(0))}" if arguments else words


_WORDS: dict[object, Callable[[_Limits], str]] = {
    bool: lambda limits: "true or false",
    int: _whole_number,
    float: _number,
    str: _text,
    Path: lambda limits: "a path",
    Any: lambda limits: "any value",
}
