"""What runs an update: one small interface, several engines behind it.

The plain torch engine is the reference that DeepSpeed's must equal. All take the same objective (the model's loss under
the run's precision), the same optimizer over the same groups, and the learning rate of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor

from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.training.engines.admission import Admit, admit_all
from megadape.training.optimizer import OptimizerBuilder, build_optimizer
from megadape.training.settings import TrainingSettings


@dataclass(frozen=True)
class StepResult:
    """What an update reports, the same on every rank."""

    loss: float
    """Mean over the global batch, nats a token; may be infinite where the update was skipped."""

    grad_norm: float
    """Of the whole gradient, before clipping; infinite where it was not finite."""

    skipped: bool = False
    """Refused, or not finite, or in fp16 an overflow: parameters and optimizer are as they were."""

    loss_scale: float | None = None
    """fp16: what the loss was multiplied by in this update."""


@dataclass
class EngineState:
    """Everything an engine must give back to go on as if never stopped, gathered over data-parallel ranks.

    Tensors are this rank's parts, float32, by full parameter name: its tensor-parallel slices of its stage. The
    parameter table knows how they join.
    """

    updates: int
    """Made so far; skipped ones do not count."""

    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    """Moment -> parameter name -> tensor; empty before the first update."""

    loss_scale: dict[str, float] | None = None
    """State of the loss scale; None: there is none."""


class Engine(Protocol):
    """Runs updates on a model that it was built around."""

    optimizer: torch.optim.Optimizer
    """Torch's; an engine may have given it other tensors than the model's to work on."""

    def __init__(
        self,
        model: GPT,
        settings: TrainingSettings,
        parallel: ParallelSettings,
        mesh: Mesh,
        optimizer: OptimizerBuilder = build_optimizer,
    ) -> None: ...

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float, admit: Admit = admit_all) -> StepResult:
        """One update: this rank's micro-batches, each [b, s + 1], forward, backward, clip, step.

        Args:
            micro_batches: token ids.
            learning_rate: of this update.
            admit: asked, on every rank alike, between norm and update; where it refuses, or the gradient is not
                finite, parameters and optimizer stay as they are. Not asked about an overflow in fp16.

        Raises:
            TrainingError: fp16: the gradients are not finite at the smallest loss scale.
        """
        ...

    def evaluate(self, tokens: Tensor) -> Tensor:
        """Mean loss of [b, s + 1], without gradients, in the model's present mode; a collective over the ranks of a
        model, the same on each, not averaged over data-parallel ranks."""
        ...

    def state(self) -> EngineState:
        """This rank's part of the state, the same on all its data-parallel ranks; a collective.

        Tensors may be the engine's own: read them before the next update. They lie on the engine's device or the CPU.
        """
        ...

    def load_state(self, state: EngineState) -> None:
        """Take up a state in place, whichever engine and ZeRO stage it comes from."""
        ...


TORCH = ("megadape.training.engines.torch_engine", "TorchEngine")
DEEPSPEED = ("megadape.training.engines.deepspeed_engine", "DeepSpeedEngine")
DEEPSPEED_PIPELINE = ("megadape.training.pipeline.deepspeed_pipeline", "DeepSpeedPipelineEngine")
DEEPSPEED_SCHEDULE = ("megadape.training.pipeline.deepspeed_pipeline", "DeepSpeedScheduleEngine")

ENGINES = {
    ("torch", None): TORCH,
    ("torch", "1f1b"): TORCH,
    ("torch", "interleaved"): TORCH,
    ("torch", "zero_bubble"): TORCH,
    ("deepspeed", None): DEEPSPEED,
    ("deepspeed", "1f1b"): DEEPSPEED_PIPELINE,
    ("deepspeed", "interleaved"): DEEPSPEED_SCHEDULE,
    ("deepspeed", "zero_bubble"): DEEPSPEED_SCHEDULE,
}
"""(engine, schedule of the pipeline if there is one) -> where it lives; imported when chosen, since DeepSpeed takes its
time."""


def build_engine(
    model: GPT,
    settings: TrainingSettings,
    parallel: ParallelSettings,
    mesh: Mesh,
    optimizer: OptimizerBuilder = build_optimizer,
) -> Engine:
    """The engine that the settings name."""
    module, name = ENGINES[settings.engine, parallel.schedule if parallel.pp > 1 else None]
    engine: type[Engine] = getattr(import_module(module), name)
    return engine(model, settings, parallel, mesh, optimizer)
