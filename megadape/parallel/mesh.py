"""The ranks of a run and where each stands: pipeline stage, data-parallel share, tensor-parallel share.

A run is started by hand (one process), by torchrun or the DeepSpeed launcher (RANK, WORLD_SIZE, LOCAL_RANK), or by
srun with one task a rank (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID). The mesh is made once and handed down; nothing
is global.

Rank = (stage * data ranks + data rank) * tensor ranks + tensor rank: tensor parallelism, which talks most, stays among
neighbours, that is inside a node; stages, which talk least, are furthest apart. DeepSpeed's topology counts alike.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from megadape.errors import ConfigurationError
from megadape.parallel.failure import close_connections
from megadape.parallel.group import ALONE, Group

LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
"""Names under which launchers pass rank, number of ranks and rank in the node, first that is there wins."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among the ranks of the run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Place:
        """Read the launcher's variables; a step of one task, or none of them, is a single process."""
        for rank, world, local in LAUNCHERS:
            if rank in environment and world in environment:
                try:
                    return Place(int(environment[rank]), int(environment[world]), int(environment.get(local, "0")))
                except ValueError as error:
                    raise ConfigurationError(
                        f"the launcher set {rank}, {world} or {local} to no number: {error}"
                    ) from error
        return Place()


@dataclass(frozen=True)
class Mesh:
    """The ranks of a run as three axes, and the groups that this rank belongs to."""

    place: Place
    device: torch.device

    world: Group = ALONE
    """All ranks."""

    tp: Group = ALONE
    """The ranks that share every layer of a stage."""

    dp: Group = ALONE
    """The ranks that hold the same parameters and see other data."""

    pp: Group = ALONE
    """The stages of one pipeline."""

    model: Group = ALONE
    """The ranks that hold one model together: all stages, all their tensor-parallel ranks."""

    ends: Group = ALONE
    """First and last stage of one pipeline, where tied embeddings live; on other stages, this rank alone."""

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self.place.rank

    @property
    def data_rank(self) -> int:
        """Which share of every batch this rank takes."""
        return self.dp.rank

    @property
    def data_ranks(self) -> int:
        """Over how many ranks every batch is shared."""
        return self.dp.size

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.place.rank == 0

    @property
    def reports(self) -> bool:
        """Whether this rank stands for its data-parallel share: first of its model."""
        return self.model.rank == 0

    def mean_over_data(self, value: Tensor) -> Tensor:
        """The mean over the data-parallel ranks, the same bits on each; a new tensor."""
        if self.data_ranks == 1:
            return value
        return self.dp.all_reduce(value.clone(memory_format=torch.contiguous_format)) / self.data_ranks

    def gather(self, value: object) -> list[object]:
        """One small object of every rank, in rank order, on every rank."""
        return self.world.gather_objects(value)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.world.barrier()


@contextmanager
def open_mesh(
    place: Place,
    *,
    tp: int = 1,
    pp: int = 1,
    process_group: bool = False,
    timeout: timedelta = timedelta(minutes=10),
) -> Iterator[Mesh]:
    """Join the other ranks for the length of a block.

    Args:
        place: where this process stands.
        tp: tensor-parallel ranks.
        pp: pipeline stages.
        process_group: make a process group even for a single process (DeepSpeed wants one).
        timeout: how long a collective waits for the others.

    A process group that exists already is used and left open.

    Raises:
        ConfigurationError: the ranks cannot be split that way.
    """
    check_degrees(place.world, tp, pp)
    device = torch.device("cuda", place.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield make_mesh(place, device, tp, pp)
        return
    if place.world == 1 and not process_group:
        yield Mesh(place, device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        # a lone process needs no port: a file of its own will do
        method = "env://" if place.world > 1 else f"file://{Path(folder) / 'rendezvous'}"
        dist.init_process_group(backend, init_method=method, rank=place.rank, world_size=place.world, timeout=timeout)
        try:
            yield make_mesh(place, device, tp, pp)
        except Exception:
            close_connections()
            raise
        dist.destroy_process_group()


def check_degrees(world: int, tp: int, pp: int) -> None:
    """Raise ``ConfigurationError`` unless the ranks make whole models."""
    if world % (tp * pp):
        raise ConfigurationError(
            f"parallel.tp x parallel.pp must divide the ranks, but {tp} x {pp} = {tp * pp} does not divide {world}: "
            f"start a multiple of {tp * pp} ranks, or lower one of them"
        )


def make_mesh(place: Place, device: torch.device, tp: int = 1, pp: int = 1) -> Mesh:
    """The mesh over an initialised process group; a collective."""
    dp = place.world // (tp * pp)
    stage, share, part = place.rank // (dp * tp), place.rank // tp % dp, place.rank % tp
    pipeline = [(s * dp + share) * tp + part for s in range(pp)]
    at_end = stage in (0, pp - 1)
    return Mesh(
        place,
        device,
        world=join_group(range(place.world), place),
        tp=join_group([place.rank - part + t for t in range(tp)], place),
        dp=join_group([(stage * dp + d) * tp + part for d in range(dp)], place),
        pp=join_group(pipeline, place),
        model=join_group([(s * dp + share) * tp + t for s in range(pp) for t in range(tp)], place),
        ends=join_group(sorted({pipeline[0], pipeline[-1]}), place) if at_end else join_group([place.rank], place),
    )


def join_group(ranks: Sequence[int], place: Place) -> Group:
    """The group of these ranks, of which this process is one; only they take part in making it."""
    members = tuple(ranks)
    own = members.index(place.rank)
    if len(members) == place.world:
        return Group(members, own, dist.group.WORLD)
    return Group(members, own, dist.new_group(list(members), use_local_synchronization=True))
