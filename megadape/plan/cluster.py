"""The machines that a plan is made for, and what is taken for granted of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megadape.errors import ConfigurationError

USABLE_MEMORY = 0.9
"""Share of a GPU's memory that a run may fill: the rest goes to the CUDA context, NCCL's buffers and fragmentation."""

SUSTAINED_FLOPS = 3e14
"""Operations a second that a GPU keeps up on a transformer in bfloat16: about 30 % of an H100's dense peak."""

INSIDE_NODE = 300e9
"""Bytes a second that a GPU receives from the others of its node: NVLink of the fourth generation, 450 GB/s, less a
third."""

BETWEEN_NODES = 40e9
"""Bytes a second that a GPU receives from other nodes: one 400 Gbit/s port a GPU, 50 GB/s, less a fifth."""

MOST_RANKS = 2**20
"""More than any cluster has."""


@dataclass(frozen=True)
class Cluster:
    """Alike nodes of alike GPUs; ranks fill a node before the next one."""

    nodes: int
    gpus_per_node: int
    gpu_memory: float
    """GiB of one GPU."""

    flops: float = SUSTAINED_FLOPS
    inside_node: float = INSIDE_NODE
    between_nodes: float = BETWEEN_NODES

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ConfigurationError(f"a cluster's {name} must be a number above 0, but is {value}")
        if self.ranks > MOST_RANKS:
            raise ConfigurationError(
                f"{self.nodes} nodes of {self.gpus_per_node} GPUs are {self.ranks:,} ranks: at most {MOST_RANKS:,} are "
                "planned for"
            )

    @property
    def ranks(self) -> int:
        """One a GPU."""
        return self.nodes * self.gpus_per_node

    @property
    def usable_bytes(self) -> float:
        """What a run may fill of one GPU."""
        return self.gpu_memory * 2**30 * USABLE_MEMORY

    def bandwidth(self, ranks: Sequence[int]) -> float:
        """Bytes a second between some ranks: that of the slowest link among them."""
        nodes = {rank // self.gpus_per_node for rank in ranks}
        return self.inside_node if len(nodes) == 1 else self.between_nodes
