"""How a run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from megadape.parallel.settings import ParallelSettings
from megadape.settings import Settings
from megadape.training.engines.deepspeed_config import read_user_config
from megadape.training.engines.loss_scale import LossScaleSettings
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

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16, fp16: products in that (autocast); parameters, gradients, their accumulation and the optimizer in
    float32. fp16 scales the loss."""

    loss_scale: LossScaleSettings = LossScaleSettings()
    """With precision: fp16."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """What runs the update: plain torch, the reference, or DeepSpeed, which shards by ZeRO (parallel.zero)."""

    deepspeed: Annotated[
        dict[str, Any] | None, BeforeValidator(read_user_config, json_schema_input_type=dict[str, Any] | Path | None)
    ] = None
    """With engine: deepspeed, more of DeepSpeed's own configuration: a JSON file, or its content. A file is read once,
    and its content becomes the setting. Keys that other settings decide are refused."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW."""

    schedule: ScheduleSettings = ScheduleSettings()
    """Learning rate over the steps."""

    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""

    loss_chunk: int = Field(default=0, ge=0)
    """Tokens of a micro-batch whose logits are held at once; 0: all of them. With a large vocabulary logits are the
    peak of memory. Gradients are made chunk by chunk in the forward pass, and nothing is computed twice."""

    compile: bool = False
    """Compile what surrounds attention (torch.compile): fewer passes over memory, a slower start. With one rank a
    model: parallel.tp and parallel.pp of 1, parallel.zero of at most 2."""

    @model_validator(mode="after")
    def _deepspeed_has_a_reader(self) -> TrainingSettings:
        if self.deepspeed is not None and self.engine != "deepspeed":
            raise ValueError(
                f"training.deepspeed configures the engine deepspeed, but training.engine is {self.engine}: set it to "
                "deepspeed, or leave training.deepspeed out"
            )
        return self

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
    """Sequences of each dataset, always the same ones, at the training length."""


class LoggingSettings(Settings):
    """Where the numbers go besides metrics.jsonl."""

    every: int = Field(default=10, ge=1)
    """Steps between lines on the console; metrics.jsonl has every step."""

    wandb_project: str | None = None
    """Weights & Biases project; its key comes from the environment alone, WANDB_MODE=offline works."""

    tensorboard: bool = False
    """Whether to write TensorBoard events into the run folder."""

    peak_flops: float | None = Field(default=None, gt=0)
    """Peak floating-point operations a second of one device, for MFU; default: what its data sheet says, where the
    device is known (megadape.training.peaks)."""


def check_engine(training: TrainingSettings, parallel: ParallelSettings) -> None:
    """Raise ``ValueError`` where an engine cannot train that way, naming the nearest that can."""
    _check_compile(training, parallel)
    if training.engine == "torch":
        if parallel.zero:
            raise ValueError(
                f"parallel.zero is {parallel.zero}, but only training.engine: deepspeed shards its optimizer (it is "
                "torch): choose deepspeed, or parallel.zero: 0"
            )
        return
    if parallel.pp > 1 and parallel.zero == 0:
        raise ValueError(
            f"with training.engine: deepspeed a pipeline (parallel.pp: {parallel.pp}) needs parallel.zero: 1, not 0: "
            "without ZeRO DeepSpeed clips each stage by its own norm; set parallel.zero: 1, or training.engine: torch"
        )
    if parallel.pp > 1 and parallel.schedule == "1f1b" and training.precision == "fp16":
        raise ValueError(
            "training.precision: fp16 is not for DeepSpeed's own pipeline (training.engine: deepspeed, "
            f"parallel.pp: {parallel.pp}, parallel.schedule: 1f1b): use bf16, another schedule, or training.engine: "
            "torch"
        )


def _check_compile(training: TrainingSettings, parallel: ParallelSettings) -> None:
    if not training.compile:
        return
    reasons = {
        "tp": (parallel.tp > 1, "collectives of tensor parallelism stand amid what would be compiled", 1),
        "pp": (parallel.pp > 1, "stages send activations of their own memory layout, for which nothing is compiled", 1),
        "zero": (parallel.zero == 3, "ZeRO 3 takes parameters away while compiled code holds on to them", 2),
    }
    for key, (refused, reason, nearest) in reasons.items():
        if refused:
            raise ValueError(
                f"training.compile does not go with parallel.{key}: {getattr(parallel, key)}, since {reason}: set "
                f"training.compile: false, or parallel.{key}: {nearest}"
            )
