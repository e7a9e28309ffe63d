"""Which rank writes which tensor: one that holds a part of it, and all of them about as many bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.checkpoint.tensor_file import DTYPES, Stored
from megadape.parallel.mesh import Mesh
from megadape.parameters import ParameterSpec


@dataclass(frozen=True)
class Writer:
    """A rank, as the place in the mesh that it has."""

    stage: int
    share: int
    """Data-parallel rank."""

    part: int
    """Tensor-parallel rank."""


@dataclass(frozen=True)
class Deal:
    """Every tensor of a state and who writes it; the same on all ranks."""

    tensors: Mapping[str, Stored]
    """In the order in which they are written."""

    writers: Mapping[str, Writer]

    def of(self, writer: Writer) -> dict[str, Stored]:
        """What one rank writes, in order."""
        return {name: stored for name, stored in self.tensors.items() if self.writers[name] == writer}


def deal_tensors(stages: Sequence[Mapping[str, Stored]], shares: int, parts: int) -> Deal:
    """Give every tensor to a rank of the first stage that holds it, the largest ones first, to who has least.

    Args:
        stages: what each stage holds: tensors of which its tensor-parallel ranks have parts, and its data-parallel
            ranks copies.
        shares: data-parallel ranks.
        parts: tensor-parallel ranks.
    """
    tensors: dict[str, Stored] = {}
    writers: dict[str, Writer] = {}
    for stage, held in enumerate(stages):
        new = {name: stored for name, stored in held.items() if name not in tensors}
        loads = {Writer(stage, share, part): 0 for share in range(shares) for part in range(parts)}
        for name, stored in sorted(new.items(), key=lambda item: (-item[1].nbytes, item[0])):
            writer = min(loads, key=lambda one: loads[one])
            loads[writer] += stored.nbytes
            writers[name] = writer
        tensors.update(new)
    # wide dtypes first, so that every tensor of a file is aligned
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype].itemsize, name))
    return Deal({name: tensors[name] for name in order}, writers)


def deal_among(mesh: Mesh, own: Mapping[str, Tensor], specs: Mapping[str, ParameterSpec]) -> Deal:
    """The deal of what all ranks hold; a collective over the ranks of a model."""
    held = {name: Stored.of(tensor, specs[name]) for name, tensor in own.items()}
    everywhere: list[dict[str, Stored]] = mesh.model.gather_objects(held)
    parts = mesh.tp.size
    stages = everywhere[::parts]
    assert all(other == stages[rank // parts] for rank, other in enumerate(everywhere)), "ranks of a stage differ"
    return deal_tensors(stages, mesh.dp.size, parts)


def own_place(mesh: Mesh) -> Writer:
    """Where this rank is."""
    return Writer(mesh.pp.rank, mesh.dp.rank, mesh.tp.rank)


def join_own(mesh: Mesh, own: Mapping[str, Tensor], deal: Deal) -> Iterator[tuple[str, Tensor]]:
    """The full tensors that this rank writes, in order, on its device, one at a time.

    A collective over tensor-parallel ranks: every rank must take it to its end, whatever goes wrong meanwhile. A
    tensor that needs no joining is the one of ``own``.
    """
    place, tp = own_place(mesh), mesh.tp
    for name, stored in deal.tensors.items():
        writer = deal.writers[name]
        if (writer.stage, writer.share) != (place.stage, place.share):
            continue
        if stored.shard_axis is None or tp.size == 1:
            if writer == place:
                yield name, own[name]
        elif writer == place:
            yield name, stored.spec.join([_part(mesh, own[name], rank) for rank in range(tp.size)])
        else:
            tp.send(own[name].detach().to(mesh.device), writer.part)


def _part(mesh: Mesh, own: Tensor, rank: int) -> Tensor:
    """One rank's part; all have the same shape."""
    if rank == mesh.tp.rank:
        return own.detach().to(mesh.device)
    return mesh.tp.receive(torch.empty(own.shape, dtype=own.dtype, device=mesh.device), rank)
