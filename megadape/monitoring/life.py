"""Whether the processes of a run live, from their heartbeats and, on this machine, from themselves."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megadape.training.supervision.heartbeat import FOLDER, Heartbeat, read_heartbeat

Life = Literal["beats", "silent", "stopped", "partly gone", "gone", "unknown"]
"""stopped: suspended by a signal; unknown: it has never beaten."""

SILENT_INTERVALS, SILENT_SECONDS = 3, 30.0
"""A heartbeat that is younger may only be late, or on its way through a network file system."""

FROZEN, DEAD = "Tt", "ZX"
"""States of a process, as /proc tells them."""


@dataclass(frozen=True)
class Sign:
    """What was found."""

    life: Life
    words: str
    age: float | None = None
    """Seconds since the newest heartbeat."""


def look_for_life(run_dir: Path, interval: float) -> Sign:
    """Of the newest start of a run.

    Args:
        run_dir: its folder.
        interval: seconds between heartbeats.
    """
    beats = _newest_start(run_dir)
    if not beats:
        return Sign("unknown", "no heartbeat")
    ages = [age for _, age in beats]
    states = [_process(beat, age) for beat, age in beats]
    gone = [beat for (beat, _), state in zip(beats, states, strict=True) if state == "gone"]
    if len(gone) == len(beats):
        return Sign("gone", "its processes are gone", min(ages))
    if gone:
        return Sign("partly gone", f"{_name(gone)} gone", min(ages))
    stopped = [beat for (beat, _), state in zip(beats, states, strict=True) if state == "stopped"]
    if stopped:
        pids = " ".join(str(beat.pid) for beat in stopped)
        return Sign("stopped", f"{_name(stopped)} suspended: kill -CONT {pids}", min(ages))
    limit = max(SILENT_SECONDS, SILENT_INTERVALS * interval)
    silent = [beat for beat, age in beats if age > limit and beat.phase != "end"]
    if silent:
        return Sign("silent", f"{_name(silent)} silent for {max(ages):.0f} s", min(ages))
    slow = [beat for beat, _ in beats if beat.phase != "end" and beat.seconds > beat.allowed > 0]
    if slow:
        return Sign("silent", f"{slow[0]} for {slow[0].seconds:.0f} s", min(ages))
    return Sign("beats", "", min(ages))


def _newest_start(run_dir: Path) -> list[tuple[Heartbeat, float]]:
    """Heartbeats of the newest start, and the age of each by the file's time."""
    found, now = [], time.time()
    for path in sorted((run_dir / FOLDER).glob("rank-*.json")):
        match = re.fullmatch(r"rank-(\d+)\.json", path.name)
        beat = read_heartbeat(run_dir, int(match[1])) if match else None
        if beat is not None and _sound(beat):
            found.append((beat, max(0.0, now - path.stat().st_mtime)))
    if not found:
        return []
    start = min(found, key=lambda pair: pair[1])[0].start
    return [(beat, age) for beat, age in found if beat.start == start]


def _sound(beat: Heartbeat) -> bool:
    """Whether its numbers are numbers: the file may hold anything."""
    numbers = (beat.rank, beat.pid, beat.step, beat.seconds, beat.allowed, beat.time)
    return all(isinstance(value, int | float) for value in numbers) and isinstance(beat.host, str)


def _process(beat: Heartbeat, age: float) -> Literal["lives", "stopped", "gone"]:
    """What this machine knows of a process; of another's it is taken to live until it said that it ends."""
    if beat.host != socket.gethostname() or not Path("/proc/self/stat").exists():
        return "gone" if beat.phase == "end" and age > SILENT_SECONDS else "lives"
    try:
        # the name of the command, in brackets, may hold anything
        fields = Path(f"/proc/{beat.pid}/stat").read_text().rpartition(")")[2].split()
        born = _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return "gone"
    if fields[0] in DEAD or born > beat.time + 2:  # another process has its number now
        return "gone"
    return "stopped" if fields[0] in FROZEN else "lives"


def _boot_time() -> float:
    """When the machine started, seconds since 1970."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return float(line.split()[1])


def _name(beats: Sequence[Heartbeat]) -> str:
    ranks = ", ".join(str(beat.rank) for beat in beats[:4])
    more = ", ..." if len(beats) > 4 else ""
    return f"rank {ranks} is" if len(beats) == 1 else f"ranks {ranks}{more} are"
