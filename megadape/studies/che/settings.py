"""What a CHE study file says: a grid of tasks x methods x seeds over settings that all experiments share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from megadape.chomsky import TASKS, TaskOptions
from megadape.chomsky.settings import ScoringSettings, TaskTrainingSettings
from megadape.model.encoder import EncoderSettings
from megadape.settings import Settings
from megadape.studies.settings import Layer, Name


def _check_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return name


TaskName = Annotated[str, AfterValidator(_check_task)]
"""Name of a task."""


class CheSettings(Settings):
    """A CHE study: every method on every task with every seed, the rest alike."""

    name: Name = "che"
    """Of the study."""

    folder: Path
    """Everything that the study makes lies below: runs/, report/. The same command on it goes on."""

    tasks: tuple[TaskName, ...] = Field(default=tuple(TASKS), min_length=1)
    """Names of the tasks; default: all 15."""

    methods: dict[Name, Layer] = Field(min_length=1)
    """Name -> positions, mixer and position_range; the order is that of the table."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Each is the seed of one experiment of every method on every task."""

    encoder: EncoderSettings = EncoderSettings()
    """The transformer."""

    training: TaskTrainingSettings = TaskTrainingSettings()
    """Steps, batches, lengths."""

    scoring: ScoringSettings = ScoringSettings()
    """Lengths beyond those trained at, and strings."""

    options: TaskOptions = TaskOptions()
    """Where the published benchmark does otherwise than the definitions."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: a GPU if there is one."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> CheSettings:
        for key in ("tasks", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice: {', '.join(map(str, values))}")
        return self
