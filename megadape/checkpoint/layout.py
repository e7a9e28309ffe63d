"""Full named tensors from what the ranks hold, and back: checkpoints know no layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.errors import CheckpointError
from megadape.parallel.group import Group
from megadape.parallel.mesh import Mesh
from megadape.parameters import ParameterSpec, constant


@dataclass(frozen=True)
class _Held:
    """A rank's part of one tensor, as it is described to the others: an initialiser is a function and cannot travel."""

    full: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    shard_axis: int | None
    blocks: int

    @staticmethod
    def of(tensor: Tensor, spec: ParameterSpec) -> _Held:
        return _Held(spec.shape, tuple(tensor.shape), tensor.dtype, spec.shard_axis, spec.blocks)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        spec = ParameterSpec(self.full, constant(0.0), self.shard_axis, blocks=self.blocks)
        return spec.join(parts)


def gather_full(own: Mapping[str, Tensor], table: Mapping[str, ParameterSpec], mesh: Mesh) -> dict[str, Tensor] | None:
    """Full named tensors on the first rank of the run, on the CPU; None on the others.

    Called by every rank; those of data share 0 take part. One tensor at a time is on its way. What several stages hold
    comes from the first of them.

    Args:
        own: this rank's part of each of its tensors; names and dtypes alike on tensor-parallel ranks.
        table: knows every name in ``own``.
        mesh: the ranks.
    """
    if mesh.dp.rank != 0:
        return None
    model = mesh.model  # stage after stage, and in each the tensor-parallel ranks
    everywhere: list[dict[str, _Held]] = model.gather_objects({n: _Held.of(x, table[n]) for n, x in own.items()})
    full: dict[str, Tensor] = {}
    for name, ranks in _sources(everywhere, mesh.tp.size).items():
        if model.rank == 0:
            parts = [_part(name, rank, everywhere[rank][name], own, model, mesh.device) for rank in ranks]
            full[name] = everywhere[ranks[0]][name].join(parts)
        elif model.rank in ranks:
            model.send(own[name].detach().to(mesh.device), 0)
    return full if model.rank == 0 else None


def take_own(full: Mapping[str, Tensor], table: Mapping[str, ParameterSpec]) -> dict[str, Tensor]:
    """This rank's part of full tensors, for every name of the table: views wherever a part lies in one piece.

    Raises:
        CheckpointError: one is missing or has another shape.
    """
    own = {}
    for name, spec in table.items():
        if name not in full:
            raise CheckpointError(f"the checkpoint has no {name}: it was made with other model settings")
        if full[name].shape != spec.shape:
            raise CheckpointError(
                f"{name} is {list(full[name].shape)} in the checkpoint and {list(spec.shape)} in the model: "
                "it was made with other model settings"
            )
        own[name] = spec.take_own(full[name])
    return own


def _sources(everywhere: Sequence[Mapping[str, _Held]], tp: int) -> dict[str, tuple[int, ...]]:
    """Name -> ranks of the model whose parts make the full tensor, in the order in which all ranks send them."""
    sources: dict[str, tuple[int, ...]] = {}
    for first in range(0, len(everywhere), tp):
        assert all(everywhere[first + t].keys() == everywhere[first].keys() for t in range(tp))
        for name, held in everywhere[first].items():
            parts = tp if held.shard_axis is not None else 1
            sources.setdefault(name, tuple(range(first, first + parts)))
    return sources


def _part(name: str, rank: int, held: _Held, own: Mapping[str, Tensor], model: Group, device: torch.device) -> Tensor:
    """One rank's part, on the CPU of the first."""
    if rank == model.rank:
        return own[name].detach().cpu()
    return model.receive(torch.empty(held.shape, dtype=held.dtype, device=device), rank).cpu()
