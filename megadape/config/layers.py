"""Layering of settings: later files over earlier ones, ``--set`` over all.

Mappings merge key by key, anything else replaces. A layer that names another kind in a tagged union starts that mapping
afresh: the keys of the old kind mean nothing to the new one.
"""

from __future__ import annotations

from megadape.config.slots import Slot, tag_of
from megadape.config.tree import DEFAULT, Node


def merge(base: Node, top: Node, slot: Slot, *, implied_kind: bool = True) -> Node:
    """Lay one tree over another.

    Args:
        base: The layers so far.
        top: The next layer.
        slot: What may stand here.
        implied_kind: Whether a tagged mapping that names no kind has the kind of the field's default. True for layers
            that are complete; False among the overrides of one command line, whose order should not matter.
    """
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    if _changes_kind(base, top, slot, implied_kind):
        return top
    entries = dict(base.value)
    merged = Node(entries, top.origin if top.origin.line is not None else base.origin)
    holder = Node({**base.value, **top.value}, top.origin)
    for key, child in top.value.items():
        if key in entries:
            child = merge(entries[key], child, slot.under(key, holder), implied_kind=implied_kind)
        entries[key] = child
    return merged


def name_kinds(node: Node, slot: Slot) -> Node:
    """The tree with the kind written into each tagged mapping that left it to the field's default."""
    if isinstance(node.value, list):
        return Node([name_kinds(child, slot.under(index)) for index, child in enumerate(node.value)], node.origin)
    if not isinstance(node.value, dict):
        return node
    entries = {key: name_kinds(child, slot.under(key, node)) for key, child in node.value.items()}
    holder = slot.structured
    tag = tag_of(node, slot)
    if holder.tags and holder.tag_key not in entries and tag is not None:
        entries = {holder.tag_key: Node(tag, DEFAULT), **entries}
    return Node(entries, node.origin)


def _changes_kind(base: Node, top: Node, slot: Slot, implied_kind: bool) -> bool:
    holder = slot.structured
    if not holder.tags or holder.tag_key not in top.entries:
        return False
    if holder.tag_key not in base.entries and not implied_kind:
        return False
    old, new = tag_of(base, slot), tag_of(top, slot)
    return old is not None and old != new and holder.tags.get(old) is not holder.tags.get(new or "")
