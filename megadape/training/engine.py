"""What runs an update: one small interface, two engines behind it.

The plain torch engine is the reference that the DeepSpeed engine must equal. Both take the same objective (the model's
loss under the run's precision), the same fused AdamW and the learning rate of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor, nn

from megadape.model import GPT
from megadape.parallel.mesh import Mesh
from megadape.training.settings import TrainingSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, by torch's names."""


@dataclass(frozen=True)
class StepResult:
    """What an update reports, the same on every rank."""

    loss: float
    """Mean over the global batch, nats a token."""

    grad_norm: float
    """Of the whole gradient, before clipping."""


@dataclass
class EngineState:
    """Everything an engine must give back to go on as if never stopped: full tensors by parameter name, float32."""

    updates: int
    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    """Moment -> parameter name -> tensor; empty before the first update."""


class Objective(nn.Module):
    """Token ids [b, s + 1] -> mean loss, in the run's precision."""

    def __init__(self, model: GPT, precision: str, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.autocasts = precision == "bf16"
        self.device_type = device.type

    def forward(self, tokens: Tensor) -> Tensor:
        """Scalar loss, nats a token."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.autocasts):
            return self.model.loss(tokens)


class Engine(Protocol):
    """Runs updates on a model that it was built around."""

    def __init__(self, model: GPT, settings: TrainingSettings, zero: int, mesh: Mesh) -> None: ...

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float) -> StepResult:
        """One update: this rank's micro-batches, each [b, s + 1], forward, backward, clip, step."""
        ...

    def state(self) -> EngineState:
        """Full state, on every rank; a collective."""
        ...

    def load_state(self, state: EngineState) -> None:
        """Take up a state in place."""
        ...


ENGINES = {
    "torch": ("megadape.training.torch_engine", "TorchEngine"),
    "deepspeed": ("megadape.training.deepspeed_engine", "DeepSpeedEngine"),
}
"""Engine -> where it lives; imported when chosen, since DeepSpeed takes its time."""


def build_engine(model: GPT, settings: TrainingSettings, zero: int, mesh: Mesh) -> Engine:
    """The engine that the settings name."""
    module, name = ENGINES[settings.engine]
    engine: type[Engine] = getattr(import_module(module), name)
    return engine(model, settings, zero, mesh)
