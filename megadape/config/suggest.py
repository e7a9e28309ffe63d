"""What a user may have meant by a key that no settings class knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pydantic import BaseModel

from megadape.config.slots import Slot
from megadape.config.tree import KeyPath, dotted

_MOST = 3


def known_keys(slot: Slot, path: tuple[str, ...] = (), inside: tuple[type[BaseModel], ...] = ()) -> Iterator[KeyPath]:
    """Every key path below a slot, through all kinds of tagged unions; lists and free mappings are not entered."""
    holder = slot.structured
    models = list(holder.tags.values()) or ([holder.model] if holder.model else [])
    for model in models:
        if model in inside:
            continue
        for name, field in model.model_fields.items():
            yield (*path, name)
            yield from known_keys(Slot.of_field(field), (*path, name), (*inside, model))


def unknown_key(path: KeyPath, owner: Slot, union: Slot, tag: str | None, root: Slot) -> str:
    """What to say of an unknown key.

    Args:
        path: Where it was written.
        owner: The slot of the mapping that it was written in, in the class that the data chose.
        union: The same before the choice.
        tag: What chose the class; None outside tagged unions.
        root: The slot of the root class.
    """
    siblings = list(owner.model.model_fields) if owner.model else []
    name = str(path[-1])
    other_kinds = [kind for kind, model in union.tags.items() if name in model.model_fields]
    if other_kinds:
        belongs = ", ".join(other_kinds)
        return f"unknown key for {tag} (it belongs to {belongs}); the keys of {tag} are {', '.join(siblings)}"
    known = list(dict.fromkeys(known_keys(root)))
    if "." in name and (*path[:-1], *name.split(".")) in known:
        nested = ": {".join(name.split(".")) + ": ..." + "}" * name.count(".")
        return f"in a file keys are nested, not joined with points; write {nested}"
    meant = _meant(path, siblings, [key for key in known if key[:-1] != path[:-1]])
    if meant:
        return f"unknown key; did you mean {' or '.join(dotted(key) for key in meant)}?"
    return f"unknown key; the keys here are {', '.join(siblings)}"


def _meant(path: KeyPath, siblings: list[str], elsewhere: list[KeyPath]) -> list[KeyPath]:
    """The same name elsewhere and like names beside it; failing both, like names elsewhere."""
    section, name = path[:-1], str(path[-1]).replace("-", "_").lower()
    if name in siblings:
        return [(*section, name)]
    same = [key for key in elsewhere if key[-1] == name]
    beside = [(*section, near) for near in difflib.get_close_matches(name, siblings, n=2)]
    if same or beside:
        return [*same, *beside][:_MOST]
    near = difflib.get_close_matches(name, {str(key[-1]) for key in elsewhere}, n=1, cutoff=0.75)
    return [key for key in elsewhere if key[-1] in near][:_MOST]
