"""From plain data to settings, and from pydantic's errors to sentences about the user's files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from megadape.config.describe import allowed, did_you_mean, given, one_of, remedy
from megadape.config.slots import Slot, tag_of
from megadape.config.suggest import unknown_key
from megadape.config.tree import DEFAULT, KeyPath, Node, Origin, Problem, dotted
from megadape.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)

_WORD = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def validate(tree: Node, root: type[SettingsT], refused: Set[KeyPath] = frozenset()) -> SettingsT | list[Problem]:
    """The settings that a tree describes, or everything that is wrong with it.

    Types are not converted ("4" is no number): what was typed is what is meant. JSON's strict mode still reads text as
    paths and lists as tuples.

    Args:
        tree: All layers merged.
        root: The class to fill.
        refused: Keys that were given but could not be read, and so are not missing.
    """
    try:
        return root.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        return _Reporter(tree, Slot(root), refused).report(error)


@dataclass(frozen=True)
class _Place:
    """Where pydantic found a mistake."""

    path: KeyPath
    slot: Slot
    """What may stand there."""

    owner: Slot
    """The mapping that holds it, in the class that the data chose."""

    union: Slot
    """The same before the choice."""

    tag: str | None
    """What chose the class; None outside tagged unions."""


class _Reporter:
    """Words the errors of one validation."""

    def __init__(self, tree: Node, root: Slot, refused: Set[KeyPath]) -> None:
        self.tree = tree
        self.root = root
        self.refused = refused
        self.words: dict[str, Callable[[_Place, ErrorDetails], Problem]] = {
            "missing": self.missing,
            "extra_forbidden": self.unknown,
            "union_tag_not_found": self.kind_missing,
            "union_tag_invalid": self.kind_unknown,
            "value_error": self.rule,
            "assertion_error": self.rule,
        }

    def report(self, error: ValidationError) -> list[Problem]:
        """One problem a mistake, though members of a union complain one by one."""
        values: dict[KeyPath, Problem] = {}
        others: list[Problem] = []
        for details in error.errors(include_url=False):
            place = self.locate(details["loc"])
            word = self.words.get(details["type"])
            if details["type"] == "missing" and place.path in self.refused:
                continue
            if word is not None:
                others.append(word(place, details))
            elif details["type"] in get_args(ErrorType):
                values[place.path] = self.bad_value(place, details)
            else:
                others.append(self.rule(place, details))
        found = [*others, *values.values()]
        explained = {other.path[:length] for other in found for length in range(len(other.path))}
        kept = [problem for path, problem in values.items() if path not in explained]
        return [*kept, *others]

    def locate(self, loc: tuple[int | str, ...]) -> _Place:
        """The key path of pydantic's location, which also holds the tags and members of unions."""
        place = _Place((), self.root, self.root, self.root, None)
        slot = union = self.root
        tag: str | None = None
        left = list(loc)
        while left and left[0] != "[key]":
            slot = slot.structured if slot.tags else slot.core
            if slot.tags:
                union, tag = slot, str(left.pop(0))
                slot = Slot(slot.tags[tag])
            elif len(slot.alternatives) > 1:
                member = _member(slot, str(left.pop(0)))
                if member is None:
                    break
                slot = member
            elif slot.model or slot.container:
                key = left.pop(0)
                place = _Place((*place.path, key), slot.under(key), slot, union if tag else slot, tag)
                slot, tag = place.slot, None
            else:
                break
        return replace(place, slot=slot)

    def missing(self, place: _Place, details: ErrorDetails) -> Problem:
        """A required key that no layer gives."""
        *section, name = place.path
        if isinstance(name, int):
            # a tuple that is too short
            return self.bad_value(replace(place, path=tuple(section), slot=place.owner), details)
        where = f"add `{name}: ...` under {dotted(tuple(section))}" if section else f"add `{name}: ...` to a file"
        if not any(isinstance(key, int) for key in section):
            where += f" or give --set {dotted(place.path)}=..."
        text = f"required key is missing; {where}; it must be {allowed(place.slot)}"
        return Problem(self.origin_of_section(tuple(section)), place.path, text)

    def unknown(self, place: _Place, details: ErrorDetails) -> Problem:
        """A key that the class does not have."""
        text = unknown_key(place.path, place.owner, place.union, place.tag, self.root)
        return Problem(self.tree.origin_at(place.path), place.path, text)

    def kind_missing(self, place: _Place, details: ErrorDetails) -> Problem:
        """A tagged mapping that does not say which class it is for."""
        path = (*place.path, place.slot.tag_key)
        text = f"required key is missing; it must be {one_of(list(place.slot.tags))}"
        return Problem(self.tree.origin_at(place.path), path, text)

    def kind_unknown(self, place: _Place, details: ErrorDetails) -> Problem:
        """A tagged mapping for a class that does not exist."""
        path = (*place.path, place.slot.tag_key)
        node = self.tree.find(path)
        kinds = list(place.slot.tags)
        near = did_you_mean(node.value, kinds) if node is not None and isinstance(node.value, str) else None
        hint = f"; did you mean {near}?" if near else ""
        return Problem(self.tree.origin_at(path), path, f"must be {one_of(kinds)} (got {given(node)}){hint}")

    def bad_value(self, place: _Place, details: ErrorDetails) -> Problem:
        """A value of the wrong type or out of bounds."""
        node = self.tree.find(place.path)
        text = f"must be {allowed(place.slot)} (got {given(node)})"
        if details["type"] == "finite_number":
            text = f"must be a finite number (got {given(node)})"
        if node is not None and node.value is None and (place.slot.model or place.slot.tags):
            text = "the section is empty; give it keys or remove the line"
        hint = remedy(place.slot, node)
        return Problem(self.tree.origin_at(place.path), place.path, f"{text}; {hint}" if hint else text)

    def rule(self, place: _Place, details: ErrorDetails) -> Problem:
        """A rule of a settings class (a ``ValueError`` of a validator), with the origins of the keys that it names."""
        error = details.get("ctx", {}).get("error")
        text = str(error) if error is not None else details["msg"]
        node = self.tree.find(place.path)
        if node is not None and not isinstance(node.value, dict | list):
            return Problem(node.origin, place.path, f"{text} (got {given(node)})")
        named = self.keys_named_in(text, place)
        if named:
            text += f" ({'; '.join(f'{dotted(path)}: {origin}' for path, origin in named.items())})"
        set_by_user = [origin for origin in named.values() if origin != DEFAULT]
        origin = self.origin_of_section(place.path) if place.path else None
        return Problem(origin or next(iter(set_by_user), None), place.path, text)

    def keys_named_in(self, text: str, place: _Place) -> dict[KeyPath, Origin]:
        """The settings that a message names, relative to the section or from the root."""
        named: dict[KeyPath, Origin] = {}
        for word in _WORD.findall(text):
            keys = tuple(word.split("."))
            for path in ((*place.path, *keys), keys if "." in word else ()):
                if path and self.exists(path):
                    named[path] = self.tree.origin_at(path)
                    break
        return named

    def exists(self, path: KeyPath) -> bool:
        """Whether some class has a field at this path, with the kinds that the data chose."""
        slot, node = self.root, self.tree
        for key in path:
            holder = slot.structured
            model = holder.model or holder.tags.get(tag_of(node, slot) or "")
            if model is None or key not in model.model_fields:
                return False
            slot, node = slot.under(key, node), node.child(key) or Node({}, DEFAULT)
        return True

    def origin_of_section(self, path: KeyPath) -> Origin | None:
        """Where a section was written; for one that was not, the file that was read last."""
        node = self.tree.find(path)
        if node is not None and path:
            return node.origin
        return Origin(self.tree.origin.source) if self.tree.origin.line is not None else None


def _member(slot: Slot, label: str) -> Slot | None:
    """The member of a plain union that pydantic names, if a mistake may lie inside it."""
    holders = [member for member in slot.alternatives if member.model or member.tags or member.container]
    named = [member for member in holders if member.model and member.model.__name__ == label]
    nested = [member for member in holders if not member.model and "[" in label and not label.startswith("literal")]
    return next(iter([*named, *nested]), None)
