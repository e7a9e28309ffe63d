"""Stopping: every reason sets something on one rank; all ranks agree at the same step, save, and end resumable.

A run stops early by

    a signal       SIGTERM, SIGUSR1 or SIGINT, to any rank; a second SIGINT interrupts at once, unsaved
    a budget       stop.after, counted from the start of the command
    the job's end  of the Slurm job that holds it, less a margin for a step and a save
    a file         run_dir/STOP

The file stops every later start too until it is removed, unless it holds JOB.RESTARTS of a Slurm job (as the trap of
a batch script writes it): then it is for that start of that job alone.

A file run_dir/SAVE is agreed upon in the same way and stops nothing: the run saves, removes it, and goes on.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Self

import torch
from pydantic import Field
from torch import distributed as dist

from megadape.parallel.mesh import Mesh
from megadape.settings import Settings
from megadape.training.supervision.durations import Duration, format_duration
from megadape.training.supervision.job_end import incarnation, seconds_left

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Between looks at the stop file: shared file systems are slow."""

ECHO_SECONDS = 1.0
"""Ctrl-C comes twice under torchrun, from the terminal and from torchrun: so soon, a second one is the same one."""


REMEMBERED_STEPS = 100
"""The margin covers the longest of the last so many: the first of a run, which compiles, is soon forgotten."""


class StopSettings(Settings):
    """When a run stops before its last step, saved and resumable."""

    after: Duration | None = None
    """Time after which it stops, such as 3h55m or 90s, counted from the start of the command; null: no limit."""

    at_job_end: bool = True
    """In a Slurm job: stop before its time limit."""

    margin: Duration = Field(default=120.0)
    """Kept free before the job's end for a step and a save; more where these were seen to take longer."""

    file: Path | None = None
    """A file that stops the run when it appears; null: STOP in the run folder."""


class StopReason(IntEnum):
    """Why; where several hold, the highest counts."""

    SAVE = 1
    """No stop: save, and go on."""
    FILE = 2
    JOB_END = 3
    BUDGET = 4
    SIGUSR1 = 5
    SIGTERM = 6
    SIGINT = 7
    LOST_SAVE = 8


@dataclass(frozen=True)
class Stop:
    """What all ranks agreed on."""

    reason: StopReason
    rank: int
    """Which rank had it."""
    detail: str = ""

    def __str__(self) -> str:
        if self.reason in SIGNALS.values():
            return f"{self.reason.name} on rank {self.rank}"
        return self.detail


SIGNALS = {signal.SIGUSR1: StopReason.SIGUSR1, signal.SIGTERM: StopReason.SIGTERM, signal.SIGINT: StopReason.SIGINT}

Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignals:
    """The signals' flag. As a context, handlers are in place for the length of a block: enter it before the ranks join,
    in the main thread; elsewhere it heeds nothing."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._interrupted = 0.0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # who ignores a signal (nohup, a process whose parent answers Ctrl-C) goes on ignoring it
            heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._notice) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: it was not set from Python, which cannot put it back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = number == signal.SIGINT and self._interrupted and now - self._interrupted > ECHO_SECONDS
        if number == signal.SIGINT and not self._interrupted:
            self._interrupted = now
        if again:
            raise KeyboardInterrupt
        reason = SIGNALS[signal.Signals(number)]
        self.reason = max(reason, self.reason or reason)


class Stopper:
    """Asked after every step whether to stop.

    Args:
        settings: when.
        run_dir: folder of the run.
        mesh: the ranks; the first one watches the clock and the file for all.
        signals: entered by the caller.
        started: ``time.monotonic()`` when the command began.
        environment: Slurm's.
    """

    def __init__(
        self,
        settings: StopSettings,
        run_dir: Path,
        mesh: Mesh,
        signals: StopSignals,
        *,
        started: float,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings, self.mesh, self.signals, self.started = settings, mesh, signals, started
        self.file = settings.file or run_dir / "STOP"
        self.save_file = run_dir / "SAVE"
        self._own = incarnation(environment)
        self._next_poll, self._by_file, self._to_save = 0.0, False, False
        self._step_seconds: deque[float] = deque([0.0], maxlen=REMEMBERED_STEPS)
        self._save_seconds = 0.0
        self._end: float | None = None
        if mesh.is_first and settings.at_job_end:
            left = seconds_left(environment)
            self._end = None if left is None else time.monotonic() + left

    def agreed(self, *, lost_save: bool = False) -> Stop | None:
        """Whether to stop, or to save, now: the same answer on all ranks; a collective of all ranks, of one number.

        Args:
            lost_save: whether this rank could not write a checkpoint in the background.
        """
        own = StopReason.LOST_SAVE if lost_save else self._own_reason()
        # the reason leads, so that the maximum is the highest reason and one rank that has it
        code = (own << 32 | self.mesh.rank) if own else 0
        if self.mesh.world.size > 1:
            flag = torch.tensor([code], dtype=torch.int64, device=self.mesh.device)
            code = int(self.mesh.world.all_reduce(flag, dist.ReduceOp.MAX).item())
        if not code:
            return None
        reason = StopReason(code >> 32)
        if reason is StopReason.SAVE and self.mesh.is_first:
            self.save_file.unlink(missing_ok=True)
            self._to_save = False
        return Stop(reason, code & 0xFFFFFFFF, self._describe(reason))

    def note_step(self, seconds: float) -> None:
        """How long a step took, validation included: the margin before the job's end covers it."""
        self._step_seconds.append(seconds)

    def note_save(self, seconds: float) -> None:
        """How long a save took, until it was on the disk."""
        self._save_seconds = max(seconds, self._save_seconds)

    @property
    def margin(self) -> float:
        """Seconds kept free before the job's end."""
        return max(self.settings.margin, 2 * (max(self._step_seconds) + self._save_seconds))

    def _own_reason(self) -> StopReason | None:
        """The highest reason that this rank has."""
        if self.signals.reason is not None or not self.mesh.is_first:
            return self.signals.reason
        now = time.monotonic()
        if self.settings.after is not None and now - self.started >= self.settings.after:
            return StopReason.BUDGET
        if self._end is not None and now >= self._end - self.margin:
            return StopReason.JOB_END
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self._by_file, self._to_save = self._asked_by_file(), self.save_file.exists()
        if self._by_file:
            return StopReason.FILE
        return StopReason.SAVE if self._to_save else None

    def _asked_by_file(self) -> bool:
        try:
            text = self.file.read_text(errors="replace").strip()
        except OSError:
            return False
        return text == self._own or re.fullmatch(r"\d+\.\d+", text) is None

    def _describe(self, reason: StopReason) -> str:
        details = {
            StopReason.SAVE: f"{self.save_file} asked for a checkpoint",
            StopReason.BUDGET: f"the time budget of {format_duration(self.settings.after or 0)} is spent",
            StopReason.JOB_END: "the Slurm job is about to end",
            StopReason.FILE: f"{self.file} is there; remove it before going on",
            StopReason.LOST_SAVE: "a checkpoint could not be written",
        }
        return details.get(reason, "")
