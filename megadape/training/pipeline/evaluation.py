"""Forward passes through a pipeline, without gradients, at any length and batch: beside the training schedule, whose
buffers have the shape of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.training.pipeline.placement import count_stages, places_of
from megadape.training.pipeline.stage import Stage, activation_dtype, activation_shape, expect_all


class PipelineEvaluator:
    """Passes activations from stage to stage.

    Args:
        model: this rank's part.
        stages: those that this rank has.
        parallel: where all of them are.
        mesh: the ranks.
    """

    def __init__(self, model: GPT, stages: Sequence[Stage], parallel: ParallelSettings, mesh: Mesh) -> None:
        self.model, self.mesh = model, mesh
        self.stages = {stage.index: stage for stage in stages}
        owners = {place: rank for rank in range(mesh.pp.size) for place in places_of(parallel, rank)}
        self.owners = [owners[place] for place in range(count_stages(parallel))]

    @torch.no_grad()
    def loss(self, tokens: Tensor) -> Tensor:
        """Mean loss of ids [b, s + 1], in the model's present mode; a collective over the stages, the same on each."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        expect_all(self.stages.values(), [tokens])
        hidden = self._run(inputs)
        dtype = torch.promote_types(activation_dtype(self.model), torch.float32)
        loss = torch.zeros((), dtype=dtype, device=self.mesh.device)
        if hidden is not None:
            loss = self.stages[len(self.owners) - 1].loss(hidden, targets)
        return self.mesh.pp.broadcast(loss, self.owners[-1])

    def _run(self, inputs: Tensor) -> Tensor | None:
        """The last stage's output, on its rank."""
        batch, length = inputs.shape
        x: Tensor | None = inputs
        for place, owner in enumerate(self.owners):
            x = self._hop(x, place, batch, length)
            x = self.stages[place](x, length) if owner == self.mesh.pp.rank else None
        return x

    def _hop(self, x: Tensor | None, place: int, batch: int, length: int) -> Tensor | None:
        """Bring a stage's input from the stage before; within a rank it is there already."""
        pp = self.mesh.pp
        source, target = self.owners[max(place - 1, 0)], self.owners[place]
        if source == target:
            return x
        if pp.rank == source:
            assert x is not None
            pp.send(x, target)
        if pp.rank == target:
            shape, dtype = activation_shape(self.model, batch, length), activation_dtype(self.model)
            return pp.receive(torch.empty(shape, dtype=dtype, device=self.mesh.device), source)
        return None
