"""How an encoder is trained on a task, and how it is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from megadape.attention import MixerSettings, NoMixer
from megadape.chomsky.task import TaskOptions
from megadape.model.encoder import EncoderSettings
from megadape.positions import PositionSettings
from megadape.positions.none import NoneSettings
from megadape.settings import Settings

Length = Annotated[int, Field(ge=1)]


class Method(Settings):
    """What is compared: a position encoding, and what stands over it."""

    positions: PositionSettings = NoneSettings()
    """The position encoding."""

    mixer: MixerSettings = NoMixer()
    """What corrects its attention scores, if anything."""

    position_range: int | None = Field(default=None, ge=1)
    """Randomised positions for any encoding: a sorted random subset of so many, drawn anew each step; null: positions
    are counted. It should reach the longest input scored, placeholders included."""


class Lengths(Settings):
    """A row of input lengths."""

    first: Length
    """The shortest."""

    last: Length
    """At most the longest."""

    stride: Length = 1
    """From one to the next."""

    @model_validator(mode="after")
    def _not_empty(self) -> Lengths:
        if self.last < self.first:
            raise ValueError(f"last must be at least first, but first = {self.first} and last = {self.last}")
        return self

    @property
    def values(self) -> tuple[int, ...]:
        """All of them, increasing."""
        return tuple(range(self.first, self.last + 1, self.stride))


class TaskTrainingSettings(Settings):
    """Training; the defaults are the benchmark's."""

    steps: int = Field(default=200_000, ge=1)
    """Parameter updates."""

    batch_size: int = Field(default=128, ge=1)
    """Strings a step, all of one length."""

    lengths: Lengths = Lengths(first=1, last=40)
    """Lengths trained at, one a step, equally likely."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Of Adam, constant after the warm-up."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises to its value; the benchmark has none."""

    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""

    save_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints, from which a killed run goes on."""


class ScoringSettings(Settings):
    """Accuracy beyond the training lengths."""

    lengths: Lengths = Lengths(first=41, last=500)
    """Lengths scored; the published benchmark starts at 42."""

    sequences: int = Field(default=512, ge=1)
    """Strings at each length, the same ones for every method and seed."""

    batch_size: int = Field(default=64, ge=1)
    """Strings at a time."""

    dropout: bool = False
    """Whether dropout stays on, as in the published benchmark, which never turns it off."""


class ExperimentSettings(Settings):
    """One task, one method, one seed: all that decides a result."""

    task: str
    """Name of the task."""

    method: Method
    """Position encoding and mixer."""

    seed: int = Field(default=0, ge=0)
    """Of initial values, strings, dropout and drawn positions."""

    encoder: EncoderSettings = EncoderSettings()
    """The transformer."""

    training: TaskTrainingSettings = TaskTrainingSettings()
    """Steps, batches, lengths."""

    scoring: ScoringSettings = ScoringSettings()
    """Lengths and strings."""

    options: TaskOptions = TaskOptions()
    """Where the benchmark does otherwise than the definitions."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: a GPU if there is one."""
