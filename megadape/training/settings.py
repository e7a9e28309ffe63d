"""How a run trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megadape.settings import Settings
from megadape.training.optimizer import OptimizerSettings
from megadape.training.schedule import ScheduleSettings


class TrainingSettings(Settings):
    """Steps, batches, precision and engine."""

    steps: int = Field(ge=1)
    """Optimizer updates in all."""

    sequence_length: int = Field(ge=1)
    """Tokens a training sequence predicts."""

    global_batch_size: int = Field(ge=1)
    """Sequences an update; = micro_batch_size x accumulation x data-parallel ranks."""

    micro_batch_size: int = Field(ge=1)
    """Sequences a rank takes at once."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: products in bfloat16 (autocast), parameters, gradients and optimizer in float32."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """What runs the update: plain torch, the reference, or DeepSpeed."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW."""

    schedule: ScheduleSettings = ScheduleSettings()
    """Learning rate over the steps."""

    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _micro_divides_global(self) -> TrainingSettings:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                "global_batch_size must be micro_batch_size x accumulation x data-parallel ranks, but "
                f"{self.global_batch_size} is no multiple of {self.micro_batch_size}"
            )
        return self


class ValidationSettings(Settings):
    """Loss on the validation split while training."""

    every: int = Field(default=0, ge=0)
    """Steps between validations; 0: none."""

    sequences: int = Field(default=64, ge=1)
    """Sequences, always the same ones, at the training length."""


class LoggingSettings(Settings):
    """Where the numbers go besides metrics.jsonl."""

    every: int = Field(default=10, ge=1)
    """Steps between lines on the console; metrics.jsonl has every step."""

    wandb_project: str | None = None
    """Weights & Biases project; its key comes from the environment alone, WANDB_MODE=offline works."""

    tensorboard: bool = False
    """Whether to write TensorBoard events into the run folder."""

    peak_flops: float | None = Field(default=None, gt=0)
    """Peak floating-point operations a second of one device, for MFU."""
