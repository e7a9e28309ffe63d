"""What training asks of its surroundings: the settings of a run, and somebody to tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from megadape.checkpoint.settings import CheckpointSettings
from megadape.data import DataSettings
from megadape.kernels import KernelSettings
from megadape.model import Architecture
from megadape.parallel.settings import ParallelSettings
from megadape.training.profiling import ProfileSettings
from megadape.training.settings import LoggingSettings, TrainingSettings, ValidationSettings
from megadape.training.supervision.anomalies import AnomalySettings
from megadape.training.supervision.stop import StopSettings
from megadape.training.supervision.watchdog import WatchSettings


class Run(Protocol):
    """What training needs to know of a run; the root settings have it."""

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        ...

    @property
    def seed(self) -> int:
        """Of initial values, data order and dropout."""
        ...

    @property
    def data(self) -> DataSettings:
        """What to train on."""
        ...

    @property
    def training(self) -> TrainingSettings:
        """Steps, batches, precision, engine."""
        ...

    @property
    def validation(self) -> ValidationSettings:
        """Loss on the validation split."""
        ...

    @property
    def checkpoint(self) -> CheckpointSettings:
        """When to save."""
        ...

    @property
    def parallel(self) -> ParallelSettings:
        """Over how many ranks."""
        ...

    @property
    def kernels(self) -> KernelSettings:
        """Which fused kernels."""
        ...

    @property
    def stop(self) -> StopSettings:
        """When to stop early."""
        ...

    @property
    def watch(self) -> WatchSettings:
        """Heartbeats and hangs."""
        ...

    @property
    def anomalies(self) -> AnomalySettings:
        """Updates that look wrong."""
        ...

    @property
    def logging(self) -> LoggingSettings:
        """Where the numbers go."""
        ...

    @property
    def profile(self) -> ProfileSettings:
        """Which steps are profiled."""
        ...

    @property
    def architecture(self) -> Architecture:
        """What to train."""
        ...


class Reporter(Protocol):
    """Tells the person who watches."""

    def message(self, text: str) -> None:
        """A sentence."""
        ...

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        """The numbers of one step of so many."""
        ...
