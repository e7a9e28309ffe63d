"""A window of steps in which torch's profiler looks on; it changes no number of the run.

run_dir/profile/
  rank-00000-steps-10-12.trace.json      for https://ui.perfetto.dev or chrome://tracing
  rank-00000-steps-10-12.operations.txt  the operations that took most time and, with profile.memory, most memory
  rank-00000-steps-10-12.memory.pickle   with profile.memory on a GPU, for https://pytorch.org/memory_viz
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from pydantic import Field
from torch.profiler import ProfilerActivity, profile, record_function

from megadape.settings import Settings

logger = logging.getLogger(__name__)

FOLDER = "profile"

OPERATIONS = 30
"""Rows of a table."""

SNAPSHOT_ENTRIES = 100_000
"""Allocations of which the stack is kept."""


class ProfileSettings(Settings):
    """Steps that are profiled."""

    start: int | None = Field(default=None, ge=1)
    """The first step, from 1; none: nothing is profiled. Leave the first few out: they compile and allocate."""

    steps: int = Field(default=3, ge=1)
    """How many steps; those that a resumed run has behind it are left out."""

    memory: bool = False
    """Also what is allocated by which operation; on GPUs also a snapshot of all allocations."""

    ranks: tuple[int, ...] = (0,)
    """Whose steps; each writes files of its own."""

    def covers(self, step: int) -> bool:
        """Whether a step, from 1, lies in the window."""
        return self.start is not None and self.start <= step < self.start + self.steps


class StepProfiler:
    """Profiles the steps of a rank that lie in the window.

    Args:
        settings: the window.
        run_dir: folder of the run.
        rank: of this process.
        device: of the model.
        told: hears which files were written.
    """

    def __init__(
        self, settings: ProfileSettings, run_dir: Path, rank: int, device: torch.device, told: Callable[[str], None]
    ) -> None:
        self.settings, self.folder, self.rank, self.device, self._told = settings, run_dir / FOLDER, rank, device, told
        self._profile: profile | None = None
        self._first = self._last = 0

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around one step, from 1."""
        if self.rank not in self.settings.ranks or not self.settings.covers(step):
            yield
            return
        if self._profile is None:
            self._begin(step)
        with record_function(f"step {step}"):
            yield
        self._last = step
        if not self.settings.covers(step + 1):
            self.close()

    def close(self) -> None:
        """Write what was seen, if there is anything; a disk that refuses is told, and the run goes on."""
        if self._profile is None:
            return
        seen, self._profile = self._profile, None
        seen.stop()
        try:
            self._write(seen)
        except (OSError, RuntimeError) as error:
            logger.warning("the profile of rank %d cannot be written to %s: %s", self.rank, self.folder, error)
        finally:
            self._forget_allocations()

    def _begin(self, step: int) -> None:
        on_gpu = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        if self.settings.memory and on_gpu:
            torch.cuda.memory._record_memory_history(max_entries=SNAPSHOT_ENTRIES)
        self._first = step
        self._profile = profile(activities=activities, profile_memory=self.settings.memory, acc_events=True)
        self._profile.start()

    def _write(self, seen: profile) -> None:
        if not self._last:
            return  # its first step has failed
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"rank-{self.rank:05d}-steps-{self._first}-{self._last}"
        with _whole(self.folder / f"{name}.trace.json") as path:
            seen.export_chrome_trace(str(path))
        with _whole(self.folder / f"{name}.operations.txt") as path:
            path.write_text("\n".join(self._tables(seen)))
        if self.settings.memory and self.device.type == "cuda":
            with _whole(self.folder / f"{name}.memory.pickle") as path:
                torch.cuda.memory._dump_snapshot(str(path))
        self._told(f"profile of steps {self._first} to {self._last}: {self.folder / name}.*")

    def _tables(self, seen: profile) -> Iterator[str]:
        where = "cuda" if self.device.type == "cuda" else "cpu"
        averages = seen.key_averages()
        yield f"steps {self._first} to {self._last} of rank {self.rank}, by {where} time\n"
        yield averages.table(sort_by=f"self_{where}_time_total", row_limit=OPERATIONS)
        if self.settings.memory:
            yield f"by {where} memory\n"
            yield averages.table(sort_by=f"self_{where}_memory_usage", row_limit=OPERATIONS)

    def _forget_allocations(self) -> None:
        if self.settings.memory and self.device.type == "cuda":
            torch.cuda.memory._record_memory_history(enabled=None)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write what then gets this name; nothing is left where that fails."""
    partial = path.with_name(f".{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()
