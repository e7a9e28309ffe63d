"""The numbers of a run: one row a step in metrics.jsonl, and wherever else they are wanted."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from megadape.errors import TrainingError
from megadape.training.settings import LoggingSettings

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


class Tracker(Protocol):
    """Takes the rows of a run."""

    def log(self, row: Row) -> None:
        """One step's numbers."""
        ...

    def close(self) -> None:
        """No more rows will come."""
        ...


class JsonLines:
    """metrics.jsonl: rows after the step that a run resumes from are dropped, so that no step stands twice."""

    def __init__(self, path: Path, resume_step: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= resume_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(path)
        self._file = path.open("a")

    def log(self, row: Row) -> None:
        """Append one line, flushed so that others can follow."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that is still being written is left out."""
    return [json.loads(line) for line in _complete_lines(path)]


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


class WandbTracker:
    """Weights & Biases; a failure is reported once and never stops the run."""

    def __init__(self, project: str, folder: Path, run_id: str | None, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise TrainingError(
                "logging.wandb_project is set, but wandb is not installed: pip install 'megadape[wandb]'"
            ) from error
        self.id = run_id or secrets.token_hex(4)
        self._run: Any = None
        try:
            self._run = wandb.init(
                project=project, dir=str(folder), id=self.id, name=folder.name, resume="allow", config=dict(config)
            )
        except Exception as error:
            logger.warning("wandb does not start, the run goes on without it: %s", error)

    def log(self, row: Row) -> None:
        """Send one row."""
        if self._run is None:
            return
        try:
            self._run.log(dict(row), step=row["step"])
        except Exception as error:
            logger.warning("wandb fails, the run goes on without it: %s", error)
            self._run = None

    def close(self) -> None:
        """Finish the wandb run."""
        if self._run is not None:
            self._run.finish()


class TensorBoardTracker:
    """TensorBoard events in the run folder."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "logging.tensorboard is set, but tensorboard is not installed: pip install 'megadape[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def log(self, row: Row) -> None:
        """Every number of the row is a scalar."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


def open_trackers(
    folder: Path, settings: LoggingSettings, resume_step: int, wandb_id: str | None, config: Mapping[str, Any]
) -> tuple[Sequence[Tracker], str | None]:
    """The trackers that the settings ask for, and the wandb id to keep."""
    trackers: list[Tracker] = [JsonLines(folder / "metrics.jsonl", resume_step)]
    if settings.wandb_project is not None:
        wandb = WandbTracker(settings.wandb_project, folder, wandb_id, config)
        trackers.append(wandb)
        wandb_id = wandb.id
    if settings.tensorboard:
        trackers.append(TensorBoardTracker(folder / "tensorboard", resume_step))
    return trackers, wandb_id
