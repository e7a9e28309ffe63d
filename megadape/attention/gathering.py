"""Encodings and mixers as a tensor-parallel rank uses them.

Their parameters are sharded by head; the few that are not (FIRE's first layer, CoPE's table, the mixer's b1) are
replicated. Where a rank works on its own heads only, or on its own rows of all heads, its gradient of a replicated
parameter is a part of the whole: it is summed over the ranks inside autograd, so that replicas stay alike whatever the
optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from megadape.attention.mixer import DapeMixer
from megadape.parallel.collectives import copy_to, gather_along
from megadape.parallel.group import Group
from megadape.parameters import DeclaredModule, parameter_table
from megadape.positions import Heads, PositionEncoding


def own_heads(encoding: PositionEncoding, group: Group) -> PositionEncoding:
    """The encoding on this rank's heads, to be used by every rank for its own."""
    return encoding.view(encoding.geometry.heads, sum_replicated(encoding, group))


def all_heads(
    encoding: PositionEncoding | None, mixer: DapeMixer | None, group: Group
) -> tuple[PositionEncoding | None, DapeMixer | None]:
    """Encoding and mixer over the heads of all ranks, their parameters gathered in one collective."""
    parts = {name: part for name, part in (("encoding", encoding), ("mixer", mixer)) if part is not None}
    tensors = gather_sharded(parts, group)
    whole_encoding = whole_mixer = None
    if encoding is not None:
        full = tensors["encoding"] | sum_replicated(encoding, group)
        whole_encoding = encoding.view(Heads(encoding.geometry.heads.total), full)
    if mixer is not None:
        full = tensors["mixer"] | sum_replicated(mixer, group)
        whole_mixer = mixer.gathered(mixer.num_heads * group.size, full)
    return whole_encoding, whole_mixer


def sum_replicated(module: DeclaredModule, group: Group) -> dict[str, Tensor]:
    """The replicated parameters of a module, their gradients summed over the ranks."""
    table, parameters = parameter_table(module), dict(module.named_parameters())
    names = [name for name, spec in table.items() if spec.shard_axis is None]
    return dict(zip(names, copy_to(group, *(parameters[name] for name in names)), strict=True))


def gather_sharded(modules: Mapping[str, DeclaredModule], group: Group) -> dict[str, dict[str, Tensor]]:
    """The sharded parameters of some modules in full: module -> parameter -> tensor. One collective for all."""
    owned = [
        (key, name, spec, dict(module.named_parameters())[name])
        for key, module in modules.items()
        for name, spec in parameter_table(module).items()
        if spec.shard_axis is not None
    ]
    full: dict[str, dict[str, Tensor]] = {key: {} for key in modules}
    if not owned:
        return full
    flat = torch.cat([parameter.reshape(-1) for *_, parameter in owned])
    ranks = gather_along(group, flat[None], 0).split([parameter.numel() for *_, parameter in owned], dim=1)
    for (key, name, spec, parameter), values in zip(owned, ranks, strict=True):
        full[key][name] = spec.join([value.view(parameter.shape) for value in values])
    return full
