"""From a study file to its cells: one run each, in the order in which they are best made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from megadape.config import Overlay, load
from megadape.config.run import RunSettings
from megadape.errors import ConfigurationError
from megadape.studies.settings import StudySettings


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    size: str
    training_length: int
    method: str
    seed: int
    run: RunSettings

    @property
    def name(self) -> str:
        """Its folder below runs/, and its name on the command line."""
        return f"{self.size}-{self.training_length}/{self.method}/seed-{self.seed}"

    @property
    def run_dir(self) -> Path:
        """An ordinary run folder."""
        return self.run.run_dir


@dataclass(frozen=True)
class Study:
    """A study file, read."""

    file: Path
    """As given."""
    settings: StudySettings

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All runs, seed by seed, so that whatever is finished can be compared in pairs.

        Raises:
            ConfigurationError: settings of a run are wrong; the message names the cell.
        """
        chosen = self.settings
        grid = list(product(chosen.sizes, chosen.training_lengths, chosen.methods))
        alike = {place: self._load(*place) for place in grid}
        return tuple(self._cell(*place, seed, alike[place]) for seed in chosen.seeds for place in grid)

    @property
    def data_prefix(self) -> Path:
        """Of the dataset that the study makes from its own text."""
        return self.settings.folder / "data" / "text"

    def _cell(self, size: str, length: int, method: str, seed: int, run: RunSettings) -> Cell:
        run_dir = self.settings.folder / "runs" / f"{size}-{length}" / method / f"seed-{seed}"
        return Cell(size, length, method, seed, run.model_copy(update={"run_dir": run_dir, "seed": seed}))

    def _load(self, size: str, length: int, method: str) -> RunSettings:
        """What the runs of all seeds share."""
        chosen = self.settings
        own: dict[str, Any] = {"run_dir": str(chosen.folder), "training": {"sequence_length": length}}
        if chosen.text is not None:
            own["data"] = {"prefix": str(self.data_prefix)}
        layers = [
            *chosen.base.stack(self.file, "base"),
            *chosen.sizes[size].stack(self.file, f"sizes.{size}"),
            *chosen.methods[method].stack(self.file, f"methods.{method}"),
            Overlay(own, f"{self.file} (the grid)"),
        ]
        try:
            return load(layers)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{self.file}: size {size}, training length {length}, method {method}: {error}"
            ) from error


def read_study(file: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file; its cells are checked all together before the first of them is run.

    Args:
        file: YAML.
        overrides: ``key.path=value``, laid over the file.

    Raises:
        ConfigurationError: every mistake, with file, line and key.
    """
    study = Study(file, load([file], overrides, root=StudySettings))
    assert study.cells
    return study
