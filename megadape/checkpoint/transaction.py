"""Writing one checkpoint: every rank its files, then the first rank makes them count.

Ranks tell the first one what they wrote by small files beside their tensors, not by a collective: so that all of this
can go on in the background while training uses the network.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from megadape.checkpoint.fence import Fence
from megadape.checkpoint.files import FileRecord, flush, read_json, write_json, write_text
from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.manifest import INDEX, STATE, check_size, find_problem, write_manifest
from megadape.checkpoint.reading import MODEL, OPTIMIZER, describe_place
from megadape.checkpoint.tensor_file import Stored, TensorFileWriter
from megadape.errors import CheckpointError
from megadape.faults import reach

LAST_WORDS = 30.0
"""Seconds that the first rank waits for the others' files once its own main thread has ended."""


@dataclass(frozen=True)
class Attempt:
    """One checkpoint on its way, as one rank sees it."""

    folder: CheckpointFolder
    step: int
    name: str
    """The same on all ranks, and never twice."""

    rank: int
    ranks: int

    @property
    def partial(self) -> Path:
        """Where it is written."""
        return self.folder.partial(self.step, self.name)

    def report_of(self, rank: int) -> Path:
        """Where a rank says what it has written."""
        return self.partial / f".rank-{rank:05d}.json"

    def discard(self) -> None:
        """Remove what there is of it."""
        shutil.rmtree(self.partial, ignore_errors=True)


class RankFiles:
    """What one rank writes: a file of parameters and one of moments, where it has any.

    Raises:
        OSError: here and in every method but ``abandon``.
    """

    def __init__(self, attempt: Attempt, tensors: Mapping[str, Stored]) -> None:
        self.attempt = attempt
        attempt.partial.mkdir(parents=True, exist_ok=True)
        reach("checkpoint.before_write")
        kinds: dict[str, dict[str, Stored]] = {}
        for name, stored in tensors.items():
            kinds.setdefault(OPTIMIZER if "/" in name else MODEL, {})[name] = stored
        self._writers = {
            kind: TensorFileWriter(attempt.partial / self._file(kind), held) for kind, held in kinds.items()
        }

    def write(self, name: str, tensor: Tensor) -> None:
        """The next tensor, in the order in which they were announced."""
        self._writers[OPTIMIZER if "/" in name else MODEL].write(name, tensor)

    def finish(self) -> None:
        """Flush, and tell the first rank."""
        files = {self._file(kind): asdict(writer.finish()) for kind, writer in self._writers.items()}
        index = {
            name: describe_place(self._file(kind), stored)
            for kind, writer in self._writers.items()
            for name, stored in writer.tensors.items()
        }
        reach("checkpoint.before_report")
        write_json(self.attempt.report_of(self.attempt.rank), {"files": files, "tensors": index})
        reach("checkpoint.after_report")

    def abandon(self) -> None:
        """Close, whatever was written."""
        for writer in self._writers.values():
            writer.abandon()

    def _file(self, kind: str) -> str:
        return f"{kind}-{self.attempt.rank:05d}.safetensors"


def commit(attempt: Attempt, fence: Fence, state: str, limit: float, cancelled: threading.Event) -> tuple[Path, int]:
    """Make a checkpoint of what all ranks have written, or will soon have; on the first rank.

    Args:
        attempt: of this rank.
        fence: says whether this run may still write.
        state: JSON.
        limit: seconds to wait for the other ranks.
        cancelled: stops waiting.

    Returns:
        Its folder and its bytes.

    Raises:
        CheckpointError: another incarnation has taken over, a rank wrote nothing in time, or its files are not what it
            said.
        OSError: the disk refused.
    """
    reports = _wait_for_reports(attempt, fence, limit, cancelled)
    partial = attempt.partial
    files: dict[str, FileRecord] = {}
    tensors: dict[str, Any] = {}
    for report in reports:
        files.update({name: FileRecord(**record) for name, record in report["files"].items()})
        tensors.update(report["tensors"])
    problem = next((p for name, record in files.items() if (p := check_size(partial, name, record))), None)
    if problem:
        raise CheckpointError(f"a rank's file is not what it wrote: {problem}")
    files[INDEX] = write_json(partial / INDEX, {"tensors": dict(sorted(tensors.items()))})
    files[STATE] = write_text(partial / STATE, state)
    for rank in range(attempt.ranks):
        attempt.report_of(rank).unlink()
    reach("checkpoint.before_manifest")
    write_manifest(partial, files, {"step": attempt.step, "written_by": asdict(fence.incarnation)})
    flush(partial)
    reach("checkpoint.after_manifest")
    return _give_name(attempt, fence), sum(record.bytes for record in files.values())


def _give_name(attempt: Attempt, fence: Fence) -> Path:
    final = attempt.folder.final(attempt.step)
    replaced = final.with_name(f"{final.name}.replaced")
    fence.check()
    try:
        if final.exists():
            _make_way(attempt, final, replaced)
        attempt.partial.rename(final)
    except OSError:
        with suppress(FileNotFoundError):  # nobody has taken its place: it goes back
            if replaced.exists() and not final.exists():
                replaced.rename(final)
        fence.check()  # whoever took over has swept the folder away: say that instead
        raise
    reach("checkpoint.after_rename")
    flush(attempt.folder.path)
    return final


def _make_way(attempt: Attempt, final: Path, replaced: Path) -> None:
    """Move a checkpoint of the same step aside, where it is still found; of two, keep the one that is valid."""
    if not attempt.partial.exists():
        return  # swept away by whoever has taken over: the rename will fail
    if replaced.exists():
        if find_problem(final) is not None:
            shutil.rmtree(final)
            return
        shutil.rmtree(replaced)
    final.rename(replaced)
    reach("checkpoint.between_renames")


def _wait_for_reports(attempt: Attempt, fence: Fence, limit: float, cancelled: threading.Event) -> list[dict[str, Any]]:
    started, pause = time.monotonic(), 0.01
    reports: list[dict[str, Any]] = []
    while True:
        while len(reports) < attempt.ranks and attempt.report_of(len(reports)).exists():
            reports.append(read_json(attempt.report_of(len(reports))))
        if len(reports) == attempt.ranks:
            return reports
        fence.check()  # whoever takes over sweeps reports away: they would never come
        if not threading.main_thread().is_alive():
            limit = min(limit, time.monotonic() - started + LAST_WORDS)
        if cancelled.wait(pause) or time.monotonic() - started > limit:
            raise CheckpointError(
                f"rank {len(reports)} has not written its part of step {attempt.step}"
                + ("" if cancelled.is_set() else f" in {limit:.0f} s")
            )
        pause = min(2 * pause, 0.5)
