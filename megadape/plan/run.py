"""Settings to plan with: those of a run, of which where it is written and what it reads need not be known yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from megadape.config import load
from megadape.config.run import RunSettings
from megadape.data import DataSettings
from megadape.errors import ConfigurationError
from megadape.model import Architecture
from megadape.training.identity import with_vocabulary

PLANNED = Path("planned")


class PlannedRun(RunSettings):
    """One run; folder and dataset may be left out."""

    run_dir: Path = Field(default=PLANNED, validate_default=False)  # strict JSON has no paths
    """As in ``RunSettings``."""

    data: DataSettings = DataSettings(prefix=PLANNED)
    """As in ``RunSettings``; needed where the vocabulary is to be the dataset's."""


def load_planned(files: Sequence[Path], overrides: Sequence[str]) -> tuple[PlannedRun, Architecture]:
    """Settings, and the architecture with its vocabulary known; ``ConfigurationError`` with all mistakes."""
    run = load(files, overrides, root=PlannedRun)
    if run.data.prefix != PLANNED:
        return run, with_vocabulary(run.architecture, [part.prefix for part in run.data.parts])
    if run.model.vocab_size is None:
        raise ConfigurationError(
            "model.vocab_size is not known: give it, or data.prefix, a dataset whose vocabulary it is to be"
        )
    return run, run.architecture
