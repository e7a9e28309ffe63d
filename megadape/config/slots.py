"""Walking a tree of settings classes: which type waits at a key path.

A ``Slot`` is a place that a value can fill. From the root class one steps to the slot of each key, through optional
fields, lists, mappings and unions; a *tagged union* is one whose classes name themselves by a literal key (``kind``),
so that the data says which class it is for. Layering, error messages and suggestions are written on slots and know no
settings class by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from megadape.config.tree import Node, Scalar

_TAG_KEY = "kind"


@dataclass(frozen=True)
class Slot:
    """A place in the settings tree: what may stand there."""

    annotation: Any
    """A type without ``Annotated`` around it."""

    metadata: tuple[Any, ...] = ()
    """Constraints such as ``annotated_types.Ge``."""

    discriminator: str | None = None
    """The key that tells the classes of a tagged union apart, where the field declares one."""

    default: Any = PydanticUndefined
    """The field's default; undefined if it has none."""

    @classmethod
    def of(cls, annotation: object, metadata: tuple[Any, ...] = (), discriminator: str | None = None) -> Slot:
        """The slot of an annotation, ``Annotated`` taken apart."""
        while True:
            if hasattr(annotation, "__value__"):
                annotation = getattr(annotation, "__value__")  # noqa: B009 (no type declares it)
            elif get_origin(annotation) is Annotated:
                annotation, *extra = get_args(annotation)
                for item in extra:
                    metadata += tuple(item.metadata) if isinstance(item, FieldInfo) else (item,)
                    discriminator = getattr(item, "discriminator", None) or discriminator
            else:
                return cls(annotation, metadata, discriminator if isinstance(discriminator, str) else None)

    @classmethod
    def of_field(cls, field: FieldInfo) -> Slot:
        """The slot of a field of a settings class."""
        declared = field.discriminator if isinstance(field.discriminator, str) else None
        slot = cls.of(field.annotation, tuple(field.metadata), declared)
        default = field.default
        if field.default_factory is not None and not field.default_factory_takes_validated_data:
            default = field.get_default(call_default_factory=True)
        return cls(slot.annotation, slot.metadata, slot.discriminator, default)

    @property
    def alternatives(self) -> list[Slot]:
        """The members of a union, or the slot itself; null is not among them."""
        if get_origin(self.annotation) not in (Union, UnionType):
            return [self]
        members = [member for member in get_args(self.annotation) if member is not NoneType]
        return [Slot.of(member, self.metadata, self.discriminator) for member in members]

    @property
    def nullable(self) -> bool:
        """Whether null may stand here."""
        return self.annotation is NoneType or NoneType in get_args(self.annotation)

    @property
    def core(self) -> Slot:
        """The slot without null, when one alternative or one tagged union remains."""
        members = self.alternatives
        if len(members) != 1:
            return self
        return members[0] if members[0].annotation == self.annotation else members[0].core

    @property
    def tag_key(self) -> str:
        """The key that names the class in a tagged union."""
        return self.core.discriminator or _TAG_KEY

    @property
    def tags(self) -> dict[str, type[BaseModel]]:
        """Tag -> class of a tagged union; nothing for any other slot."""
        core = self.core
        members = core.alternatives
        if len(members) < 2:
            return {}
        tags: dict[str, type[BaseModel]] = {}
        for member in members:
            field = member.model.model_fields.get(core.tag_key) if member.model else None
            literals = literal_values(Slot.of_field(field)) if field else []
            if member.model is None or not literals:
                return {}
            tags.update((str(value), member.model) for value in literals)
        return tags

    @property
    def default_tag(self) -> str | None:
        """The tag of the default value of a tagged union."""
        tag = getattr(self.default, self.tag_key, None)
        return str(tag) if tag is not None else None

    @property
    def model(self) -> type[BaseModel] | None:
        """The settings class, if the slot is for just one."""
        annotation = self.core.annotation
        return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None

    @property
    def structured(self) -> Slot:
        """The one alternative that can hold keys or items; the slot itself when there is none or several."""
        core = self.core
        if core.tags:
            return core
        holders = [member for member in core.alternatives if member.model or member.tags or member.container]
        return holders[0].core if len(holders) == 1 else core

    @property
    def container(self) -> type | None:
        """``list`` or ``dict`` for what is written as one in YAML."""
        kind = get_origin(self.core.annotation) or self.core.annotation
        if not isinstance(kind, type) or issubclass(kind, str | bytes):
            return None
        if issubclass(kind, Mapping):
            return dict
        return list if issubclass(kind, Sequence | AbstractSet) else None

    def item(self, index: int) -> Slot:
        """The slot of a list's item or, for a mapping, of every value."""
        arguments = get_args(self.core.annotation)
        if not arguments:
            return ANYTHING
        if self.container is dict:
            return Slot.of(arguments[1])
        fixed = get_origin(self.core.annotation) is tuple and Ellipsis not in arguments
        return Slot.of(arguments[min(index, len(arguments) - 1)] if fixed else arguments[0])

    def under(self, key: str | int, node: Node | None = None) -> Slot:
        """The slot one key further, for a tagged union in the class that the data names."""
        holder = self.structured
        model = holder.model or holder.tags.get(tag_of(node, self) or "")
        if model is not None:
            field = model.model_fields.get(str(key))
            return Slot.of_field(field) if field else ANYTHING
        return holder.item(key if isinstance(key, int) else 0) if holder.container else ANYTHING


ANYTHING = Slot(Any)
"""Where no class says what belongs there."""


def tag_of(node: Node | None, slot: Slot) -> str | None:
    """The tag that the data gives, or else the one of the default."""
    holder = slot.structured
    given = node.child(holder.tag_key) if node is not None else None
    if given is not None:
        return given.value if isinstance(given.value, str) else None
    return slot.default_tag or holder.default_tag


def literal_values(slot: Slot) -> list[Scalar]:
    """The values of all literals among the alternatives of a slot."""
    return [
        value
        for member in slot.alternatives
        if get_origin(member.annotation) is Literal
        for value in get_args(member.annotation)
    ]
