"""The ranks of a run and where each stands.

A run is started by hand (one process), by torchrun or the DeepSpeed launcher (RANK, WORLD_SIZE, LOCAL_RANK), or by
srun with one task a rank (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID). The mesh is made once and handed down; nothing
is global.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from megadape.errors import ConfigurationError

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
    """The ranks of a run: data parallel alone so far."""

    place: Place
    device: torch.device

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self.place.rank

    @property
    def data_rank(self) -> int:
        """Which share of every batch this rank takes."""
        return self.place.rank

    @property
    def data_ranks(self) -> int:
        """Over how many ranks every batch is shared."""
        return self.place.world

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.place.rank == 0

    def mean_over_data(self, value: Tensor) -> Tensor:
        """The mean over the data-parallel ranks, the same bits on each; a new tensor."""
        if self.data_ranks == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.data_ranks

    def gather(self, value: object) -> list[object]:
        """One small object of every rank, in rank order, on every rank."""
        if self.place.world == 1:
            return [value]
        values: list[object] = [None] * self.place.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.place.world > 1:
            dist.barrier()


@contextmanager
def open_mesh(
    place: Place, *, process_group: bool = False, timeout: timedelta = timedelta(minutes=10)
) -> Iterator[Mesh]:
    """Join the other ranks for the length of a block.

    Args:
        place: where this process stands.
        process_group: make a process group even for a single process (DeepSpeed wants one).
        timeout: how long a collective waits for the others.

    A process group that exists already is used and left open.
    """
    device = torch.device("cuda", place.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = Mesh(place, device)
    if dist.is_initialized() or (place.world == 1 and not process_group):
        yield mesh
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        # a lone process needs no port: a file of its own will do
        method = "env://" if place.world > 1 else f"file://{Path(folder) / 'rendezvous'}"
        dist.init_process_group(backend, init_method=method, rank=place.rank, world_size=place.world, timeout=timeout)
        try:
            yield mesh
        finally:
            dist.destroy_process_group()
