"""Forward and backward through a pipeline with torch's own schedules (torch.distributed.pipelining, torch 2.13).

Shapes are given, so that torch runs no stage to find them: that would draw random numbers and positions on the way.
Torch's scaling of gradients is off: it would scale what an engine has accumulated, and a parameter that two runs of
layers share twice; the loss is scaled instead.

zero_bubble is the V of Qi et al. (2024, arXiv 2405.15362): the first rank holds both ends of the model, so that tied
embeddings are one tensor, and any number of micro-batches will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from megadape.errors import ConfigurationError
from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.training.pipeline.deferred_weights import WeightGradients
from megadape.training.pipeline.evaluation import PipelineEvaluator
from megadape.training.pipeline.placement import check_pipeline, count_stages
from megadape.training.pipeline.stage import Stage, activation_dtype, activation_shape, build_stages, expect_all
from megadape.training.settings import TrainingSettings

Schedule = PipelineScheduleSingle | PipelineScheduleMulti
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ScheduleKind:
    """One of torch's schedules."""

    build: Callable[[list[PipelineStage], int, Loss], Schedule]
    """From stages, number of micro-batches and loss."""

    defers_weights: bool = False
    """Whether it computes gradients of weights apart."""


def one_forward_one_backward(stages: list[PipelineStage], count: int, loss: Loss) -> Schedule:
    """1F1B; with fewer micro-batches than stages that is all forward, then all backward, which torch calls GPipe."""
    kind = Schedule1F1B if count >= stages[0].num_stages else ScheduleGPipe
    return kind(stages[0], count, loss, scale_grads=False)


SCHEDULES = {
    "1f1b": ScheduleKind(one_forward_one_backward),
    "interleaved": ScheduleKind(
        lambda stages, count, loss: ScheduleInterleaved1F1B(list(stages), count, loss, scale_grads=False)
    ),
    "zero_bubble": ScheduleKind(
        lambda stages, count, loss: ScheduleZBVZeroBubble(list(stages), count, loss, scale_grads=False),
        defers_weights=True,
    ),
}
"""By ``parallel.schedule``."""


class TorchPipelineWorker:
    """See ``megadape.training.engines.objective.Worker``.

    Raises:
        ConfigurationError: the schedule cannot work with so many micro-batches.
    """

    def __init__(self, model: GPT, settings: TrainingSettings, parallel: ParallelSettings, mesh: Mesh) -> None:
        try:
            check_pipeline(settings, parallel, model.settings, mesh.data_ranks)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        self.model, self.mesh = model, mesh
        self.kind, self.count = SCHEDULES[parallel.schedule], count_stages(parallel)
        self.stages = build_stages(model, settings.sequence_length, settings.precision, parallel, mesh)
        self.evaluator = PipelineEvaluator(model, self.stages, parallel, mesh)
        self.scheduled = [ScheduledStage(stage, defers=self.kind.defers_weights) for stage in self.stages]
        self._schedule: tuple[tuple[int, int, int], Schedule] | None = None
        self._factor: float | Tensor = 1.0
        self._losses: list[Tensor] = []

    def run(self, micro_batches: Sequence[Tensor], scale: float | Tensor) -> Tensor:
        """All micro-batches in the order of the schedule."""
        tokens = torch.cat(list(micro_batches))
        self._factor = scale / len(micro_batches)
        schedule = self._schedule_for(len(micro_batches), tokens)
        expect_all(self.stages, micro_batches)
        inputs = (tokens[:, :-1].contiguous(),) if self._has(0) else ()
        target = tokens[:, 1:].contiguous() if self._has(self.count - 1) else None
        schedule.step(*inputs, target=target, return_outputs=False)
        losses, self._losses = self._losses, []
        dtype = torch.promote_types(activation_dtype(self.model), torch.float32)
        mean = torch.stack(losses).mean() if losses else torch.zeros((), dtype=dtype, device=self.mesh.device)
        return self.mesh.pp.broadcast(mean, self.evaluator.owners[-1])

    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss."""
        return self.evaluator.loss(tokens)

    def _has(self, place: int) -> bool:
        return any(stage.index == place for stage in self.stages)

    def _schedule_for(self, micro_batches: int, tokens: Tensor) -> Schedule:
        """The schedule, with buffers for so many micro-batches of that shape; the newest is kept."""
        shape = micro_batches, len(tokens) // micro_batches, tokens.shape[1] - 1
        if self._schedule is None or self._schedule[0] != shape:
            stages = [self._torch_stage(stage, shape[1], shape[2]) for stage in self.scheduled]
            self._schedule = shape, self.kind.build(stages, micro_batches, self._loss)
        return self._schedule[1]

    def _torch_stage(self, scheduled: ScheduledStage, batch: int, length: int) -> PipelineStage:
        scheduled.length = length
        index, device = scheduled.stage.index, self.mesh.device
        activations = torch.empty(
            activation_shape(self.model, batch, length),
            dtype=activation_dtype(self.model),
            device=device,
            requires_grad=True,
        )
        ids = torch.empty(batch, length, dtype=torch.int64, device=device)
        return PipelineStage(
            scheduled,
            index,
            self.count,
            device,
            input_args=ids if index == 0 else activations,
            output_args=activations,
            group=self.mesh.pp.handle,
            dw_builder=scheduled.weights.settle_later if scheduled.weights else None,
        )

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The share of one micro-batch in what is differentiated."""
        loss = self.scheduled[-1].loss(hidden, targets)
        self._losses.append(loss.detach())
        return loss * self._factor


class ScheduledStage(nn.Module):
    """A stage as torch's schedules run it: with the gradients of its weights apart, where they ask for it."""

    def __init__(self, stage: Stage, *, defers: bool) -> None:
        super().__init__()
        self.stage, self.length = stage, stage.length
        self.weights = WeightGradients() if defers else None

    def forward(self, x: Tensor) -> Tensor:
        """As the stage."""
        with ExitStack() as contexts:
            if self.weights:
                contexts.enter_context(self.weights.deferring())
            out: Tensor = self.stage(x, self.length)
            return out

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """As the stage."""
        with ExitStack() as contexts:
            if self.weights:
                contexts.enter_context(self.weights.deferring())
            return self.stage.loss(hidden, targets)
