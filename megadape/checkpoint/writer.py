"""Saving a run's state from all its ranks, at once or in the background.

Every rank writes what the deal gives it. At once, tensors are joined and written one after another. In the background,
they are joined and copied to CPU memory at the step, which is all that training waits for; a thread writes the copy,
and no collective is left to it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from megadape.checkpoint.deal import Deal, deal_among, join_own, own_place
from megadape.checkpoint.fence import Fence
from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.loading import find_newest
from megadape.checkpoint.reading import Checkpoint
from megadape.checkpoint.retention import Retention
from megadape.checkpoint.settings import CheckpointSettings
from megadape.checkpoint.snapshot import Snapshot
from megadape.checkpoint.transaction import Attempt, RankFiles, commit
from megadape.errors import CheckpointError
from megadape.faults import reach
from megadape.parallel.mesh import Mesh
from megadape.parameters import ParameterSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written."""

    path: Path
    step: int
    bytes: int
    pause: float
    """Seconds for which training waited on the first rank."""

    seconds: float
    """From the call of ``save`` until it counted."""

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.bytes / 2**20:,.0f} MiB in {self.seconds:.1f} s, training waited {self.pause:.1f} s)"
        )


@dataclass
class _Pending:
    """A checkpoint on its way, on this rank."""

    attempt: Attempt
    started: float
    pause: float = 0.0
    written: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    error: Exception | None = None
    saved: Saved | None = None


class CheckpointWriter:
    """Writes the checkpoints of a run; one object a rank, and every method that is no property a collective.

    Args:
        folder: of the checkpoints.
        mesh: the ranks.
        settings: when in the background, and what to keep.
    """

    def __init__(self, folder: Path, mesh: Mesh, settings: CheckpointSettings) -> None:
        self.folder = CheckpointFolder(folder)
        self.mesh, self.settings = mesh, settings
        self.retention = Retention(self.folder, settings.keep, settings.keep_every)
        self._fence: Fence | None = None
        self._name = ""
        self._attempts = 0
        self._snapshot = Snapshot(mesh.device)
        self._pending: _Pending | None = None

    def take_over(self) -> Checkpoint | None:
        """Become the one who writes here, and find where to go on: the newest valid checkpoint, verified in full.

        Raises:
            CheckpointError: a later restart of the same job runs already, the folder cannot be written, or there are
                checkpoints and none is valid.
        """
        error = None
        if self.mesh.is_first:
            try:
                self._fence = Fence.take_over(self.folder.path)
                self.folder.sweep()
            except CheckpointError as problem:
                error = problem
        self._agree(error)
        names = self.mesh.gather(self._fence and self._fence.incarnation.name)
        self._name = str(names[0])
        checkpoint = find_newest(self.folder, self.mesh)
        if checkpoint is not None:
            self.retention.loaded = checkpoint.path
            self.retention.trust(checkpoint.path)
        return checkpoint

    @property
    def failed(self) -> bool:
        """Whether the checkpoint on its way has failed on this rank; ``finish`` will say how, on all ranks."""
        return self._pending is not None and self._pending.error is not None

    def save(
        self,
        step: int,
        parameters: Mapping[str, Tensor],
        moments: Mapping[str, Mapping[str, Tensor]],
        table: Mapping[str, ParameterSpec],
        state: Mapping[str, Any],
    ) -> Saved | None:
        """Write a checkpoint; what was on its way before is finished first.

        Args:
            step: updates done.
            parameters: this rank's parts, the same on its data-parallel ranks.
            moments: moment -> parameter name -> this rank's part.
            table: knows every name of ``parameters``.
            state: JSON; the first rank's counts.

        Returns:
            What was written; None in the background.

        Raises:
            CheckpointError: on all ranks, where one could not write; nothing that could be loaded is left of this
                checkpoint, older ones remain.
        """
        assert self._name, "take_over comes first"
        started = time.perf_counter()
        self.finish()
        own = {**parameters, **{f"{moment}/{name}": x for moment, held in moments.items() for name, x in held.items()}}
        specs = {name: table[name.rpartition("/")[2]] for name in own}
        deal = deal_among(self.mesh, own, specs)
        self._attempts += 1
        attempt = Attempt(
            self.folder, step, f"{self._name[:12]}-{self._attempts}", self.mesh.rank, self.mesh.place.world
        )
        self._pending = pending = _Pending(attempt, started)
        text = json.dumps(state, indent=1) if self.mesh.is_first else ""
        run = self._in_background if self.settings.asynchronous else self._at_once
        run(pending, own, deal, text)
        pending.pause = time.perf_counter() - started
        return None if self.settings.asynchronous else self.finish()

    def finish(self) -> Saved | None:
        """Wait for the checkpoint on its way.

        Returns:
            What was written, on every rank; None if there was nothing to wait for.

        Raises:
            CheckpointError: on all ranks, where one could not write.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        pending.written.wait()
        what = f"checkpoint of step {pending.attempt.step} could not be written"
        try:
            self._agree(pending.error, what)
            if pending.thread:
                pending.thread.join()
            self._agree(pending.error, what)  # now the first rank's commit is known too
        except CheckpointError:
            pending.cancelled.set()
            if pending.thread:
                pending.thread.join()
            if self.mesh.is_first:
                pending.attempt.discard()
            raise
        saved = self.mesh.gather(pending.saved)[0]
        assert isinstance(saved, Saved)
        if pending.thread and self.mesh.is_first:
            logger.info("saved %s", saved)
        return saved

    def _at_once(self, pending: _Pending, own: Mapping[str, Tensor], deal: Deal, state: str) -> None:
        self._write(pending, deal, join_own(self.mesh, own, deal))
        # only when every rank has written can the first one commit without waiting
        errors = self.mesh.gather(pending.error is not None)
        if self.mesh.is_first and not any(errors):
            self._commit(pending, state)
        pending.written.set()

    def _in_background(self, pending: _Pending, own: Mapping[str, Tensor], deal: Deal, state: str) -> None:
        copies = self._snapshot.take(join_own(self.mesh, own, deal))

        def work() -> None:
            self._write(pending, deal, copies.items())
            pending.written.set()
            if self.mesh.is_first and pending.error is None:
                self._commit(pending, state)

        # not a daemon: the interpreter waits for it before it ends
        pending.thread = threading.Thread(target=work, name="checkpoint")
        pending.thread.start()

    def _write(self, pending: _Pending, deal: Deal, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """This rank's files. The tensors are taken to their end whatever happens, since the others take part."""
        files: RankFiles | None = None

        def start() -> None:
            nonlocal files
            if self._fence:
                self._fence.check()
            files = RankFiles(pending.attempt, deal.of(own_place(self.mesh)))

        def put(name: str, tensor: Tensor) -> None:
            assert files
            files.write(name, tensor.cpu())

        self._try(pending, start)
        for name, tensor in tensors:
            self._try(pending, put, name, tensor)
        if files:
            self._try(pending, files.finish)
            files.abandon()

    def _commit(self, pending: _Pending, state: str) -> None:
        limit = self.settings.wait_minutes * 60

        def work() -> None:
            assert self._fence
            path, size = commit(pending.attempt, self._fence, state, limit, pending.cancelled)
            seconds = time.perf_counter() - pending.started
            pending.saved = Saved(path, pending.attempt.step, size, pending.pause or seconds, seconds)

        self._try(pending, work)
        if pending.saved is None:
            return  # the other ranks may still write there: ``finish`` removes it
        reach("checkpoint.before_retention")
        self.retention.trust(pending.saved.path)
        self.retention.apply()

    def _try(self, pending: _Pending, work: Callable[..., None], *args: object) -> None:
        """Do something unless something went wrong before; what goes wrong now is kept for all ranks to hear."""
        if pending.error is None:
            try:
                work(*args)
            except Exception as error:
                pending.error = error

    def _agree(self, error: Exception | None, what: str = "") -> None:
        """Raise on all ranks what went wrong on any."""
        text = None if error is None else (str(error) or type(error).__name__)
        errors = [(rank, one) for rank, one in enumerate(self.mesh.gather(text)) if one is not None]
        if not errors:
            return
        told = sorted({str(one) for _, one in errors})
        ranks = "" if self.mesh.place.world == 1 else f" on rank {', '.join(str(rank) for rank, _ in errors)}"
        raise CheckpointError(f"{what}{ranks}: {'; '.join(told)}" if what else "; ".join(told)) from error
