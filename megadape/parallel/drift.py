"""The drift check: what ranks hold alike must be alike, bit for bit.

Data-parallel ranks hold the same parameters, tensor-parallel ones the same unsharded parameters, and stages share some.
Nothing sends these back and forth once training runs: each rank computes the same update. A broken device, a missing
collective or an update that one rank skipped would go unseen and spoil the run slowly.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from megadape.errors import TrainingError
from megadape.parallel.group import Group
from megadape.parallel.mesh import Mesh
from megadape.parameters import parameter_table

DIGEST_BYTES = 16
NAMED_AT_MOST = 8
"""Findings that the error spells out."""


@dataclass(frozen=True, order=True)
class Difference:
    """A parameter that some ranks of a group hold otherwise than the rest."""

    name: str
    odd: tuple[int, ...]
    """Ranks of the run that differ from the commonest value."""
    others: tuple[int, ...]
    """Those that hold it."""

    def __str__(self) -> str:
        return f"{self.name} on {_ranks(self.odd)} (unlike {_ranks(self.others)})"


def check_drift(
    model: nn.Module, mesh: Mesh, step: int, *, shared: Mapping[str, str] | None = None, partitioned: bool = False
) -> None:
    """Compare what ranks hold alike; a collective of all ranks.

    Args:
        model: this rank's part.
        mesh: the ranks.
        step: for the error.
        shared: parameters that other stages of the pipeline hold too: name -> "all" or "ends".
        partitioned: ZeRO 3 holds only a piece of each parameter, another one on each data-parallel rank: these are then
            not compared with each other, the rest piece by piece.

    Raises:
        TrainingError: on all ranks; names parameters, ranks and step.
    """
    shared = shared or {}
    table = parameter_table(model)
    compared: list[tuple[Group, list[str]]] = [
        (mesh.dp, [] if partitioned else list(table)),
        (mesh.tp, [name for name, spec in table.items() if spec.shard_axis is None]),
        (mesh.pp, sorted(name for name, where in shared.items() if where == "all")),
        (mesh.ends, sorted(name for name, where in shared.items() if where == "ends")),
    ]
    compared = [(group, names) for group, names in compared if group.size > 1 and names]
    wanted = {name for _, names in compared for name in names}
    held = {name: _piece(p, mesh.dp) if partitioned else p for name, p in model.named_parameters() if name in wanted}
    digests = {name: digest(tensor) for name, tensor in held.items()}
    found = {each for group, names in compared for each in differences(digests, names, group, mesh.device)}
    _raise_together(found, mesh, step)


def digest(tensor: Tensor) -> bytes:
    """128 bits of shape, dtype and every bit of the values: of NaNs and of the sign of zero, too."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    hashed = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    hashed.update(values.numpy().data)
    return hashed.digest()[:DIGEST_BYTES]


def differences(digests: Mapping[str, bytes], names: list[str], group: Group, device: torch.device) -> list[Difference]:
    """What the ranks of a group hold otherwise; one collective, the same answer on each."""
    own = torch.frombuffer(bytearray(b"".join(digests[name] for name in names)), dtype=torch.uint8)
    rows = group.all_gather(own.to(device)).cpu().view(group.size, len(names), DIGEST_BYTES)
    equal = (rows == rows[:1]).all(-1).all(0)
    return [_difference(names[i], rows[:, i], group) for i in equal.logical_not().nonzero()[:, 0].tolist()]


def _difference(name: str, rows: Tensor, group: Group) -> Difference:
    """The commonest value is taken for the right one; between equally common ones, the first rank's."""
    values = [bytes(row.tolist()) for row in rows]
    commonest = Counter(values).most_common(1)[0][0]
    odd = tuple(rank for rank, value in zip(group.ranks, values, strict=True) if value != commonest)
    return Difference(name, odd, tuple(rank for rank in group.ranks if rank not in odd))


def _raise_together(found: set[Difference], mesh: Mesh, step: int) -> None:
    """One number tells all ranks whether any has seen something; only then do they tell each other what."""
    flag = mesh.world.all_reduce(torch.tensor([bool(found)], dtype=torch.int32, device=mesh.device), dist.ReduceOp.MAX)
    if not flag.item():
        return
    everywhere = sorted(set().union(*mesh.world.gather_objects(found)))
    shown = "; ".join(str(each) for each in everywhere[:NAMED_AT_MOST])
    more = f"; and {len(everywhere) - NAMED_AT_MOST} more" if len(everywhere) > NAMED_AT_MOST else ""
    raise TrainingError(
        f"after step {step} ranks no longer hold alike what they must: {shown}{more}; go on from a checkpoint before "
        "that step, and if it is always the same rank, without its device"
    )


def _piece(parameter: Tensor, dp: Group) -> Tensor:
    """What ZeRO 3 keeps of a parameter here, by DeepSpeed's names; without the last piece's padding, which is never
    written and may be anything."""
    piece: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
    left: int = parameter.ds_numel - dp.rank * piece.numel()  # type: ignore[attr-defined]
    return piece[: max(0, left)]


def _ranks(ranks: Iterable[int]) -> str:
    listed = [str(rank) for rank in ranks]
    return f"rank{'s' * (len(listed) > 1)} {', '.join(listed)}"
