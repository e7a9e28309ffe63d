"""One small file a rank that says where it stands: run_dir/heartbeats/rank-00003.json.

Clocks of hosts differ, so that nobody compares times of two hosts: whoever reads a heartbeat sees whether it beats by
its count, and measures for how long it has not by its own clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from megadape.training.supervision.json_files import read_json, replace_json

Phase = Literal["start", "data", "update", "validate", "save", "end"]
"""What a rank is at; "end": it has stopped beating on purpose."""

FOLDER = "heartbeats"


@dataclass(frozen=True)
class Heartbeat:
    """Where a rank stands."""

    start: str
    """Names this start of the run: what an earlier one left does not count."""
    rank: int
    host: str
    pid: int
    step: int
    """The step it is at, from 1."""
    phase: Phase
    seconds: float
    """For how long it has been there."""
    allowed: float
    """For how long it may."""
    beat: int
    """Counts up."""
    time: float
    """When it was written, by the rank's own clock: for people."""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid}), at {self.phase} of step {self.step}"

    def missed(self) -> str:
        """What is said of a rank that no longer beats."""
        return f"{self}, gives no sign of life: its process is frozen or gone"


def heartbeat_path(run_dir: Path, rank: int) -> Path:
    """Of one rank."""
    return run_dir / FOLDER / f"rank-{rank:05d}.json"


def write_heartbeat(run_dir: Path, heartbeat: Heartbeat) -> None:
    """Replace a rank's file.

    Raises:
        OSError: the file system refused.
    """
    replace_json(heartbeat_path(run_dir, heartbeat.rank), asdict(heartbeat), durable=False)


def read_heartbeat(run_dir: Path, rank: int) -> Heartbeat | None:
    """A rank's newest; None where there is none that can be read."""
    content = read_json(heartbeat_path(run_dir, rank))
    if content is None or content.keys() != Heartbeat.__annotations__.keys():
        return None
    return Heartbeat(**content)


def describe_standing(before: Mapping[int, Heartbeat], after: Mapping[int, Heartbeat]) -> list[str]:
    """In words, from two looks at all ranks: who has not beaten in between, and where all stand.

    Ranks that stand alike are named together, the smallest group first: it holds whom the others wait for.
    """
    silent = [
        heartbeat
        for rank, heartbeat in after.items()
        if rank in before and before[rank].beat == heartbeat.beat and heartbeat.phase != "end"
    ]
    groups: dict[tuple[int, str], list[Heartbeat]] = defaultdict(list)
    for heartbeat in after.values():
        groups[heartbeat.step, heartbeat.phase].append(heartbeat)
    parts = [each.missed() for each in silent]
    for (step, phase), members in sorted(groups.items(), key=lambda item: (len(item[1]), item[0])):
        ranks = ", ".join(str(member.rank) for member in members)
        longest = max(member.seconds for member in members)
        parts.append(f"rank{'s' * (len(members) > 1)} {ranks}: {phase} of step {step} for {longest:.0f} s")
    return parts
