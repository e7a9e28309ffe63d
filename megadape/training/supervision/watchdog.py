"""Hangs, found by a thread on every rank: stacks of all ranks, then a non-zero end.

Collectives are of no use to ranks that hang in one: they talk through files in the run folder (see ``heartbeat`` and
``stacks``).

A rank hangs when its main thread stays at one phase of one step for longer than the phase is allowed: its own thread
sees that. A rank whose process is frozen, or gone, does not beat, however long its phase may take: the first rank
watches all others for that, and all others watch the first. Each thread counts the seconds in which it was awake
itself, so that a job that was suspended and goes on is not taken for one that hangs.

Should the main thread keep the interpreter's lock, so that the thread cannot run, faulthandler's timer, which needs no
lock, writes the stacks to standard error, and the other ranks miss the heartbeat.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field

from megadape.parallel.mesh import Mesh
from megadape.settings import Settings
from megadape.training.supervision.heartbeat import Heartbeat, Phase, describe_standing, read_heartbeat, write_heartbeat
from megadape.training.supervision.outcome import FAILED
from megadape.training.supervision.stacks import STANDARD_ERROR, ask_for_stacks, asked_for_stacks, say, show_stacks

logger = logging.getLogger(__name__)

SILENT_INTERVALS = 3
"""A heartbeat that has not changed for fewer intervals may only be late."""


class WatchSettings(Settings):
    """Heartbeats and the detection of hangs."""

    hang_minutes: float = Field(default=5.0, ge=0)
    """For how long a rank may stay at one phase of a step, or not give a sign of life, before the run is ended; below
    parallel.timeout_minutes, so that stacks are written before collectives give up; 0: hangs are not looked for."""

    start_minutes: float = Field(default=30.0, ge=0)
    """Allowed to each phase the first time: kernels are compiled, caches filled."""

    save_minutes: float = Field(default=30.0, ge=0)
    """Allowed to a save."""

    validate_minutes: float = Field(default=30.0, ge=0)
    """Allowed to a validation."""

    interval_seconds: float = Field(default=5.0, gt=0, le=86400)
    """Between heartbeats."""

    grace_seconds: float = Field(default=20.0, ge=0)
    """Left to all ranks for their stacks before the run ends."""

    def allowed(self, phase: Phase, first: bool) -> float:
        """Seconds that a phase may take."""
        longer = {"start": self.start_minutes, "save": self.save_minutes, "validate": self.validate_minutes}
        minutes = max(self.hang_minutes, longer.get(phase, 0.0), self.start_minutes if first else 0.0)
        return 60 * minutes

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which a process is frozen or gone, whatever its phase may take."""
        return max(60 * self.hang_minutes, SILENT_INTERVALS * self.interval_seconds)


@dataclass(frozen=True)
class _Position:
    """Where the main thread is."""

    step: int
    phase: Phase
    allowed: float


class Watchdog:
    """The heartbeat of this rank and its eye on the others; a context: the thread lives for the length of the block.

    Building it is a collective of all ranks.

    Args:
        settings: how long is too long.
        run_dir: folder of the run, on a file system that all ranks see.
        mesh: the ranks.
        step: updates made already.
        report: hears on each rank what was found, just before its process ends.
    """

    def __init__(
        self, settings: WatchSettings, run_dir: Path, mesh: Mesh, step: int, report: Callable[[str], None]
    ) -> None:
        self.settings, self.run_dir, self.mesh, self._report = settings, run_dir, mesh, report
        self.start = str(mesh.gather(secrets.token_hex(8))[0])
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._seen: set[Phase] = set()
        self._position = _Position(step, "start", settings.allowed("start", first=True))
        watched = range(1, mesh.world.size) if mesh.is_first else range(1)
        self._others: dict[int, tuple[Heartbeat | None, float]] = dict.fromkeys(watched, (None, 0.0))
        self._beat, self._known, self._seconds, self._complained = 0, self._position, 0.0, False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching; others see that this rank ended on purpose."""
        self._closing.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._position = _Position(self._position.step, "end", 0.0)
        self._write_heartbeat()

    def enter(self, phase: Phase, step: int) -> None:
        """Say what the main thread is at now: costs nothing, the thread writes it down.

        Args:
            phase: what begins.
            step: of which step, from 1.
        """
        first = phase not in self._seen
        self._seen.add(phase)
        self._position = _Position(step, phase, self.settings.allowed(phase, first))

    def _watch(self) -> None:
        interval, last = self.settings.interval_seconds, time.monotonic()
        while True:
            self._write_heartbeat()
            if self.settings.hang_minutes:
                faulthandler.dump_traceback_later(self._position.allowed, repeat=False, file=STANDARD_ERROR)
                finding = self._look()
                if finding is not None:
                    self._end(finding)
            if self._closing.wait(interval):
                return
            now = time.monotonic()
            # what is more than that was slept through: the whole job was suspended, or the machine
            self._pass(min(now - last, 2 * interval))
            last = now

    def _pass(self, seconds: float) -> None:
        """Time has gone by."""
        if self._position is self._known:
            self._seconds += seconds
        else:
            self._known, self._seconds = self._position, 0.0
        for rank, (before, silent) in self._others.items():
            now = read_heartbeat(self.run_dir, rank)
            if now is None or now.start != self.start:
                self._others[rank] = (before, silent + seconds)
            else:
                self._others[rank] = (now, silent + seconds if before and before.beat == now.beat else 0.0)

    def _look(self) -> str | None:
        """What is wrong, if anything."""
        asked = asked_for_stacks(self.run_dir, self.start)
        if asked is not None:
            return asked
        own = self._known
        if self._seconds > own.allowed:
            return f"{self._heartbeat()} hangs: no progress for {self._seconds:.0f} s, and {own.allowed:.0f} s allowed"
        for rank, (heartbeat, silent) in self._others.items():
            if heartbeat is None:
                if silent > self.settings.allowed("start", first=True):
                    return f"rank {rank} has not given a sign of life for {silent:.0f} s"
            elif heartbeat.phase != "end" and silent > self.settings.silence:
                return heartbeat.missed()
        return None

    def _end(self, finding: str) -> None:
        """Write the stacks, make the others write theirs, say who stands where, and end this process."""
        try:
            position = self._position
            show_stacks(self.run_dir, self.mesh.rank, f"{position.phase} of step {position.step}", finding)
            ask_for_stacks(self.run_dir, self.start, finding)
            # all ranks beat on while they end: those that do not are frozen, or gone
            before = self._everywhere()
            self._beat_on(SILENT_INTERVALS * self.settings.interval_seconds)
            standing = describe_standing(before, self._everywhere())
            diagnosis = "; ".join([finding, *(part for part in standing if part not in finding)])
            say(diagnosis)
            self._report(diagnosis)
            self._beat_on(self.settings.grace_seconds)
        finally:
            os._exit(FAILED)

    def _beat_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._write_heartbeat()
            time.sleep(min(left, self.settings.interval_seconds))

    def _everywhere(self) -> dict[int, Heartbeat]:
        """The newest heartbeat of every rank of this start."""
        newest = {rank: read_heartbeat(self.run_dir, rank) for rank in range(self.mesh.world.size)}
        return {rank: each for rank, each in newest.items() if each is not None and each.start == self.start}

    def _heartbeat(self) -> Heartbeat:
        position = self._position
        seconds = self._seconds if position is self._known else 0.0
        return Heartbeat(
            start=self.start,
            rank=self.mesh.rank,
            host=self._host,
            pid=self._pid,
            step=position.step,
            phase=position.phase,
            seconds=round(seconds, 1),
            allowed=position.allowed,
            beat=self._beat,
            time=time.time(),
        )

    def _write_heartbeat(self) -> None:
        self._beat += 1
        try:
            write_heartbeat(self.run_dir, self._heartbeat())
        except OSError as error:
            if not self._complained:
                logger.warning("heartbeats of rank %d cannot be written: %s", self.mesh.rank, error)
            self._complained = True
