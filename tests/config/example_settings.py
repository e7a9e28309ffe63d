"""A tree of settings classes shaped like the real one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from megadape.settings import Settings


class Rope(Settings):
    """Turns queries and keys."""

    kind: Literal["rope"] = "rope"

    base: float = Field(10000.0, gt=0)
    """The slowest wavelength."""

    shared: int = 1


class Alibi(Settings):
    kind: Literal["alibi"] = "alibi"
    slope: float = 0.5


class Fire(Settings):
    kind: Literal["fire", "fire_wide"] = "fire"
    width: PositiveInt = 32
    shared: int = 1


Positions = Annotated[Rope | Alibi | Fire, Field(discriminator="kind")]


class Dape(Settings):
    kind: Literal["dape"] = "dape"
    hidden: PositiveInt = 32


class DapeV2(Settings):
    kind: Literal["dape_v2"] = "dape_v2"
    kernel: PositiveInt = 3


Mixer = Annotated[Dape | DapeV2, Field(discriminator="kind")]


class Model(Settings):
    """The network."""

    num_layers: PositiveInt = 2
    """How many blocks."""

    hidden_size: PositiveInt = 64
    num_heads: int = Field(4, ge=1, le=512)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self


class Source(Settings):
    prefix: Path
    weight: float = Field(1.0, ge=0)


class Data(Settings):
    prefix: Path
    """Where the indexed dataset is."""

    sources: tuple[Source, ...] = ()
    splits: tuple[float, float, float] = (0.9, 0.05, 0.05)
    weights: dict[str, float] = Field(default_factory=dict)


class Engine(Enum):
    TORCH = "torch"
    DEEPSPEED = "deepspeed"


class Schedule(Settings):
    kind: Literal["cosine", "linear"] = "cosine"
    warmup: int = Field(0, ge=0)


class Training(Settings):
    steps: PositiveInt = 100
    global_batch: PositiveInt = 8
    micro_batch: PositiveInt | Literal["auto"] = 8
    learning_rate: float = Field(1e-3, gt=0)
    betas: list[float] = Field([0.9, 0.95], min_length=2, max_length=2)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    engine: Engine = Engine.TORCH
    checkpointing: bool = False
    time_limit: str | None = None
    schedule: Schedule = Schedule()


class Run(Settings):
    run_dir: Path
    seed: int = 0
    data: Data | None = None
    model: Model = Model()
    positions: Positions = Rope()
    mixer: Mixer | None = None
    training: Training = Training()
    notes: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _batches(self) -> Run:
        micro = self.training.micro_batch
        if micro != "auto" and self.training.global_batch % micro:
            raise ValueError("training.global_batch is not a multiple of training.micro_batch")
        return self
