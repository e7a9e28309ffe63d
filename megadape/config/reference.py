"""Every key that a settings file can have, in words: what may stand there, its default, what it means.

Read off the settings classes, so that a reference cannot be out of date. Sections follow the tree, parents first; a
tagged union (``positions``) has one more section for each of its kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from megadape.config.describe import allowed, one_of
from megadape.config.slots import Slot
from megadape.config.yaml_write import flow_text


@dataclass(frozen=True)
class KeyReference:
    """One key."""

    path: str
    """From the root, as ``--set`` takes it; NAME and N stand for a name and a number of the user's."""

    allowed: str
    """What may stand there."""

    default: str | None
    """As YAML; None where the key must be given or is a mapping whose keys have defaults of their own."""

    required: bool
    """Whether it must be given wherever its section is."""

    meaning: str
    """What its settings class says of it."""


@dataclass(frozen=True)
class SectionReference:
    """The keys of one settings class, at one place of the tree."""

    path: str
    """Of the mapping; empty for the root."""

    kind: str | None
    """Which kind of a tagged union it is for."""

    meaning: str
    """What its class says of itself."""

    keys: tuple[KeyReference, ...]


def describe_keys(root: type[BaseModel]) -> Iterator[SectionReference]:
    """The sections of a settings tree, from its root class."""
    yield from _sections(root, "", None)


def _sections(model: type[BaseModel], path: str, kind: str | None, tag_key: str = "") -> Iterator[SectionReference]:
    fields = {name: field for name, field in model.model_fields.items() if name != tag_key}
    slots = {name: Slot.of_field(field) for name, field in fields.items()}
    keys = tuple(
        _key(_join(path, name), slots[name], field.description or "", required=field.is_required())
        for name, field in fields.items()
    )
    yield SectionReference(path, kind, cleandoc(model.__doc__ or ""), keys)
    for name, slot in slots.items():
        yield from _below(slot, _join(path, name))


def _below(slot: Slot, path: str) -> Iterator[SectionReference]:
    """The sections of whatever mappings can stand in a slot."""
    holder = slot.structured
    if holder.tags:
        yield _choice(slot, path)
        for tag, model in holder.tags.items():
            yield from _sections(model, path, tag, holder.tag_key)
    elif holder.model is not None:
        yield from _sections(holder.model, path, None)
    elif holder.container is not None:
        yield from _below(holder.item(0), _join(path, "NAME" if holder.container is dict else "N"))


def _choice(slot: Slot, path: str) -> SectionReference:
    """The key that chooses among the kinds of a tagged union."""
    holder = slot.structured
    default = slot.default_tag or holder.default_tag
    meaning = "Which kind; the keys of each are below."
    key = KeyReference(
        _join(path, holder.tag_key), one_of(list(holder.tags)), default, required=default is None, meaning=meaning
    )
    return SectionReference(path, None, "", (key,))


def _key(path: str, slot: Slot, meaning: str, *, required: bool) -> KeyReference:
    shown = slot.default is not PydanticUndefined and not _is_bare(slot.default)
    default = flow_text(to_jsonable_python(slot.default)) if shown else None
    return KeyReference(path, allowed(slot), default, required, " ".join(meaning.split()))


def _is_bare(default: object) -> bool:
    """Whether a default is a mapping that says no more than its own keys' defaults do."""
    return isinstance(default, BaseModel) and not default.model_dump(exclude_defaults=True, exclude={"kind"})


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
