"""A rank's pipeline stage as DeepSpeed's own pipeline wants it (deepspeed 0.19.8).

Imports DeepSpeed: to be imported after that has been made ready.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout

import torch
from deepspeed.pipe import PipelineModule
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import distributed as dist
from torch import nn

from megadape.parallel.group import Group
from megadape.parallel.mesh import Mesh
from megadape.training.engines.deepspeed_setup import handle_of
from megadape.training.pipeline.stage import Stage


class StageModule(PipelineModule):
    """A pipeline of one coarse layer a stage, of which this rank has its own alone.

    DeepSpeed's tied layers share whole modules; ours share single parameters, by these two lists.

    Args:
        stage: of this rank.
        shared: parameters that other stages hold too, with those stages; in the same order on each of them.
        mesh: the ranks.
    """

    def __init__(self, stage: Stage, shared: Sequence[tuple[nn.Parameter, Group]], mesh: Mesh) -> None:
        os.environ.setdefault("LOCAL_RANK", str(mesh.place.local_rank))  # DeepSpeed reads it, and srun does not set it
        topology = PipeModelDataParallelTopology(num_pp=mesh.pp.size, num_mp=mesh.tp.size, num_dp=mesh.dp.size)
        layers = [stage if place == mesh.pp.rank else nn.Identity() for place in range(mesh.pp.size)]
        with redirect_stdout(io.StringIO()):  # it prints its seeds
            super().__init__(layers, topology=topology, loss_fn=stage.loss, partition_method="uniform")
        self._shared = list(shared)
        grid = self.mpu()
        places = grid.get_stage_id(), grid.get_data_parallel_id(), grid.get_slice_parallel_rank()
        assert places == (mesh.pp.rank, mesh.dp.rank, mesh.tp.rank), "DeepSpeed counts ranks as the mesh does"

    def get_tied_weights_and_groups(self) -> list[tuple[nn.Parameter, dist.ProcessGroup]]:
        """Asked for when all micro-batches are done, to sum gradients over stages.

        Every stage must take part: one that does not use its copy (learned positions, after the first stage) gives
        zeros.
        """
        for parameter, _ in self._shared:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [(parameter, handle_of(group)) for parameter, group in self._shared]
