"""The checkpoints of a run: a folder a step, complete or not there.

What is being written, moved out of the way or removed has a name that begins with a dot. A checkpoint of a step that is
saved once more is moved aside as ``step-00000200.replaced`` for the instant that the new one takes to get its name.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from megadape.checkpoint.manifest import FULL, Check, find_problem
from megadape.checkpoint.reading import Checkpoint
from megadape.faults import reach

NAME = re.compile(r"step-(\d{8})(\.replaced)?")

logger = logging.getLogger(__name__)


class CheckpointFolder:
    """Finds checkpoints.

    Args:
        path: holds one folder a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def list(self) -> list[Checkpoint]:
        """All that look like checkpoints, newest first; some may be damaged."""
        if not self.path.is_dir():
            return []
        found = [(match, path) for path in self.path.iterdir() if (match := NAME.fullmatch(path.name))]
        # one that was replaced comes after the one that took its place
        found.sort(key=lambda one: (-int(one[0][1]), one[0][2] is not None))
        return [Checkpoint(path, int(match[1])) for match, path in found]

    def newest(self, checks: tuple[Check, ...] = FULL) -> Checkpoint | None:
        """The newest checkpoint whose files agree with its manifest, or None; says which it passed over and why."""
        for checkpoint in self.list():
            problem = find_problem(checkpoint.path, checks)
            if problem is None:
                return checkpoint
            warn_passed_over(checkpoint, problem)
        return None

    def final(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / f"step-{step:08d}"

    def partial(self, step: int, attempt: str) -> Path:
        """Where it is while it is written."""
        return self.path / f".step-{step:08d}.partial-{attempt}"

    def remove(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint; one that is half removed is no checkpoint any more."""
        hidden = checkpoint.path.with_name(f".{checkpoint.path.name}.removed")
        shutil.rmtree(hidden, ignore_errors=True)
        checkpoint.path.rename(hidden)
        reach("checkpoint.during_removal")
        shutil.rmtree(hidden, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed or older incarnations of the run left behind."""
        for path in self._left_behind():
            # first out of the way of one who still writes there: its rename must fail
            hidden = path.with_name(f"{path.name}.swept")
            try:
                path.rename(hidden)
            except OSError:
                hidden = path
            shutil.rmtree(hidden, ignore_errors=True)

    def _left_behind(self) -> Iterator[Path]:
        if self.path.is_dir():
            yield from sorted(self.path.glob(".step-*"))


def warn_passed_over(checkpoint: Checkpoint, problem: str) -> None:
    """Say why a checkpoint is not used."""
    logger.warning("checkpoint %s is passed over: %s", checkpoint.path, problem)
