"""From a CHE study file to its experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from megadape.chomsky.settings import ExperimentSettings, Method
from megadape.config import load
from megadape.errors import ConfigurationError
from megadape.studies.che.settings import CheSettings


@dataclass(frozen=True)
class CheCell:
    """One experiment of a study."""

    task: str
    method: str
    seed: int
    experiment: ExperimentSettings
    folder: Path

    @property
    def name(self) -> str:
        """Its folder below runs/, and its name on the command line."""
        return f"{self.task}/{self.method}/seed-{self.seed}"


@dataclass(frozen=True)
class CheStudy:
    """A CHE study file, read."""

    file: Path
    """As given."""
    settings: CheSettings

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Name -> what it is; ``ConfigurationError`` names the method whose settings are wrong."""
        methods = {}
        for name, layer in self.settings.methods.items():
            try:
                methods[name] = load(layer.stack(self.file, f"methods.{name}"), root=Method)
            except ConfigurationError as error:
                raise ConfigurationError(f"{self.file}: method {name}: {error}") from error
        return methods

    @cached_property
    def cells(self) -> tuple[CheCell, ...]:
        """All experiments, seed by seed."""
        chosen = self.settings
        return tuple(
            self._cell(task, method, seed)
            for seed in chosen.seeds
            for task in chosen.tasks
            for method in chosen.methods
        )

    def _cell(self, task: str, method: str, seed: int) -> CheCell:
        chosen = self.settings
        experiment = ExperimentSettings(
            task=task,
            method=self.methods[method],
            seed=seed,
            encoder=chosen.encoder,
            training=chosen.training,
            scoring=chosen.scoring,
            options=chosen.options,
            device=chosen.device,
        )
        return CheCell(task, method, seed, experiment, chosen.folder / "runs" / task / method / f"seed-{seed}")


def read_che(file: Path, overrides: Sequence[str] = ()) -> CheStudy:
    """Read a CHE study file; its experiments are checked all together before the first of them is run.

    Args:
        file: YAML.
        overrides: ``key.path=value``, laid over the file.

    Raises:
        ConfigurationError: every mistake, with file, line and key.
    """
    study = CheStudy(file, load([file], overrides, root=CheSettings))
    assert study.cells
    return study
