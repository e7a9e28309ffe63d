"""The numbers of a run: one row a step in metrics.jsonl, and wherever else they are wanted."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from megadape.data.files import flush_folder
from megadape.errors import TrainingError
from megadape.training.phases import ASIDE, PHASES

if TYPE_CHECKING:  # who only reads rows need not wait for torch
    from megadape.training.settings import LoggingSettings

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

TIMING = frozenset(
    {
        "tokens_per_second",
        "model_flops_per_second",
        "mfu",
        "peak_memory_bytes",
        "seconds",
        *(f"seconds_{phase}" for phase in (*PHASES, *ASIDE)),
    }
)
"""What of a row clock and allocator decide: in all else a resumed run equals one that was never stopped."""

WANDB_MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")


class Tracker(Protocol):
    """Takes the rows of a run."""

    def log(self, row: Row) -> None:
        """One step's numbers."""
        ...

    def sync(self) -> None:
        """A checkpoint is about to be written: what was logged must last at least as long."""
        ...

    def close(self) -> None:
        """No more rows will come."""
        ...


class JsonLines:
    """metrics.jsonl: after a resume every step stands there once, none is missing.

    Rows after the step that a run resumes from are dropped: the run makes them again. What was kept goes into a new
    file in the old one's place, on the disk first: an older process that should still write has only the old file.
    ``sync`` before a checkpoint is complete makes sure that a checkpoint never knows steps that the file does not.

    Args:
        path: the file.
        resume_step: updates that the run has made.

    Raises:
        TrainingError: it cannot be written.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        rows = {row["step"]: row for row in read_metrics(path) if row["step"] <= resume_step}
        missing = [step for step in range(1, resume_step + 1) if step not in rows]
        if missing:
            logger.warning(
                "%s lacks %d steps of the %d made, from step %d", path, len(missing), resume_step, missing[0]
            )
        partial = path.with_name(path.name + ".partial")
        with self._reporting():
            with partial.open("w") as file:
                file.writelines(json.dumps(rows[step]) + "\n" for step in sorted(rows))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            flush_folder(path.parent)
            self._file = path.open("ab", buffering=0)

    def log(self, row: Row) -> None:
        """Append one line, so that others can follow and a killed process loses nothing."""
        line = (json.dumps(row) + "\n").encode()
        with self._reporting():
            written = self._file.write(line)
            if written != len(line):  # a full disk takes a part and refuses the rest
                self._file.write(line[written:])

    def sync(self) -> None:
        """Put all rows on the disk."""
        with self._reporting():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Put all rows on the disk; no more will come."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self.path} cannot be written: {error.strerror or error}; mend that, and start the same command again"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; left out are a last line that is still being written, and what is no row: a power
    cut leaves zeros."""
    if not path.exists():
        return []
    # not splitlines, which also splits at characters that JSON may hold
    lines = path.read_bytes().split(b"\n")[:-1]
    return [row for row in map(parse_row, lines) if row is not None]


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds; None where it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


class WandbTracker:
    """Weights & Biases; a failure is reported once and never stops the run."""

    def __init__(self, project: str, folder: Path, run_id: str | None, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise TrainingError(
                "logging.wandb_project is set, but wandb is not installed: pip install 'megadape[wandb]'"
            ) from error
        mode = os.environ.get("WANDB_MODE") or "online"
        if mode not in WANDB_MODES:  # wandb itself would say nothing, and keep nothing
            raise TrainingError(f"WANDB_MODE is {mode!r}: set it to one of {', '.join(WANDB_MODES)}, or unset it")
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

    def sync(self) -> None:
        """Weights & Biases keeps its own files."""

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
        """Every number of the row is a scalar; words, as on an anomaly, are a text."""
        for name, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, row["step"])
            elif name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Write what is buffered."""
        self._writer.flush()

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
