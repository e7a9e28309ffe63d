"""Parameters by their names in an exported folder, and back.

The modules there are named as ours, below ``model.``. Ours keep the fused projection as [3, hidden, ..], theirs as one
linear layer, [3 hidden, ..], so that tools that look for linear layers find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

HEAD = "head.weight", "lm_head.weight"
FUSED = ("attention.qkv_weight", "attention.qkv.weight"), ("attention.qkv_bias", "attention.qkv.bias")


def to_theirs(name: str) -> str:
    """Our name of a parameter as it is called in an exported folder."""
    if name == HEAD[0]:
        return HEAD[1]
    for ours, theirs in FUSED:
        name = name.replace(ours, theirs)
    return f"model.{name}"


def theirs_by_ours(names: Iterable[str]) -> dict[str, str]:
    """Ours -> theirs."""
    return {name: to_theirs(name) for name in names}


def export_tensors(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by our names -> by theirs, in their shapes."""
    return {to_theirs(name): tensor.flatten(0, 1) if _is_fused(name) else tensor for name, tensor in parameters.items()}


def import_tensor(name: str, tensor: Tensor) -> Tensor:
    """One of their tensors in the shape that ours of that name has."""
    return tensor.unflatten(0, (3, -1)) if _is_fused(name) and tensor.shape[0] % 3 == 0 else tensor


def _is_fused(name: str) -> bool:
    return name.endswith(tuple(ours for ours, _ in FUSED))
