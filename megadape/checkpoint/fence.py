"""Who may write the checkpoints of a run: the incarnation that took them over last.

A job that Slurm starts again, or a person who loses patience, can leave an older incarnation of a run alive: frozen,
or on a node that nobody reaches. Each incarnation writes its name into ``fence.json`` when it starts; a checkpoint is
given its final name only while that file still bears the name. No locks, which not every shared file system has:

* whoever takes over writes the fence, then removes every temporary folder, then looks for the newest checkpoint;
* whoever commits reads the fence, then renames its temporary folder.

So an older incarnation that has read the fence too early either renames before its folder is removed, and its
checkpoint is seen by the newer one, or finds its folder gone.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megadape.checkpoint.files import flush, read_json, write_json
from megadape.errors import CheckpointError
from megadape.faults import reach

FENCE = "fence.json"


@dataclass(frozen=True)
class Incarnation:
    """One start of a run."""

    name: str
    """Random."""

    number: int
    """Starts of the run so far."""

    job: str | None = None
    """SLURM_JOB_ID."""

    restart: int = 0
    """SLURM_RESTART_COUNT."""

    def __str__(self) -> str:
        job = f"job {self.job}, restart {self.restart}" if self.job else "by hand"
        return f"start {self.number} ({job})"


class Fence:
    """The fence of a folder of checkpoints, as one incarnation sees it.

    Args:
        folder: of the checkpoints.
        incarnation: whose.
    """

    def __init__(self, folder: Path, incarnation: Incarnation) -> None:
        self.path = folder / FENCE
        self.incarnation = incarnation

    @staticmethod
    def take_over(folder: Path, environment: Mapping[str, str] = os.environ) -> Fence:
        """Become the one incarnation that may write; on the first rank alone.

        Raises:
            CheckpointError: a later restart of the same job has taken over before, or the folder cannot be written.
        """
        job, restart = environment.get("SLURM_JOB_ID"), int(environment.get("SLURM_RESTART_COUNT", "0"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = _read(folder / FENCE)
            if before and job and before.job == job and before.restart > restart:
                raise CheckpointError(
                    f"{folder} belongs to {before}: this is restart {restart} of the same job, which must not go on"
                )
            number = before.number + 1 if before else 1
            incarnation = Incarnation(uuid.uuid4().hex, number, job, restart)
            write_json(folder / FENCE, asdict(incarnation))
            flush(folder)
        except OSError as error:
            raise CheckpointError(f"checkpoints cannot be written to {folder}: {error}") from error
        reach("checkpoint.after_take_over")
        return Fence(folder, incarnation)

    def check(self) -> None:
        """Nobody has taken over since.

        Raises:
            CheckpointError: somebody has.
        """
        now = _read(self.path)
        if now is None or now.name != self.incarnation.name:
            raise CheckpointError(
                f"{self.path.parent} was taken over by {now or 'nobody knows whom'}, so that {self.incarnation} may "
                "write no more checkpoints: end this run"
            )


def _read(path: Path) -> Incarnation | None:
    """Who is named, or None where nobody can be made out."""
    try:
        return Incarnation(**read_json(path))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None
