"""Which checkpoints to keep: the newest valid ones, permanent ones, and the one that the run was taken up from."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.manifest import FULL, QUICK, find_problem
from megadape.checkpoint.reading import Checkpoint

logger = logging.getLogger(__name__)


def choose_removable(steps: Iterable[int], valid: Collection[int], keep: int, keep_every: int) -> list[int]:
    """Steps whose checkpoints may go: older than the ``keep`` newest valid ones, and not permanent.

    Damaged ones count for nothing and go with their age.
    """
    counted = sorted(valid, reverse=True)[:keep]
    if not counted:
        return []
    return [step for step in steps if step < counted[-1] and not (keep_every and step % keep_every == 0)]


@dataclass
class Retention:
    """Drops old checkpoints of one run.

    A checkpoint counts as valid once this process has read all of it, or written it; from then on sizes are enough.
    """

    folder: CheckpointFolder
    keep: int
    keep_every: int = 0
    loaded: Path | None = None
    """What the run was taken up from: never dropped."""

    trusted: set[Path] = field(default_factory=set)

    def trust(self, path: Path) -> None:
        """This process has read all of a checkpoint, or has written it."""
        self.trusted.add(path)

    def apply(self) -> None:
        """Drop what is old; what cannot be removed is a warning, since nothing is lost."""
        found = self.folder.list()
        named = [one for one in found if one.path == self.folder.final(one.step)]
        valid = self._newest_valid(named)
        removable = set(choose_removable([one.step for one in found], valid, self.keep, self.keep_every))
        for one in found:
            if one.path != self.loaded and (one.step in removable or self._is_superseded(one)):
                self._remove(one)

    def _newest_valid(self, checkpoints: Iterable[Checkpoint]) -> set[int]:
        valid: set[int] = set()
        for checkpoint in checkpoints:
            if len(valid) == self.keep:
                break
            if self._is_valid(checkpoint.path):
                valid.add(checkpoint.step)
        return valid

    def _is_superseded(self, checkpoint: Checkpoint) -> bool:
        """Whether it was moved aside for one that is there now and valid."""
        final = self.folder.final(checkpoint.step)
        return checkpoint.path != final and final.exists() and self._is_valid(final)

    def _is_valid(self, path: Path) -> bool:
        problem = find_problem(path, QUICK if path in self.trusted else FULL)
        if problem is None:
            self.trust(path)
        else:
            logger.warning("checkpoint %s does not count: %s", path, problem)
        return problem is None

    def _remove(self, checkpoint: Checkpoint) -> None:
        try:
            self.folder.remove(checkpoint)
        except OSError as error:
            logger.warning("old checkpoint %s could not be removed: %s", checkpoint.path, error)
