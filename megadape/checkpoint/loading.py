"""The newest valid checkpoint, agreed on by all ranks; its digests are checked once in all, each rank some files."""

from __future__ import annotations

from collections.abc import Mapping

from megadape.checkpoint.files import FileRecord
from megadape.checkpoint.folder import CheckpointFolder, warn_passed_over
from megadape.checkpoint.manifest import QUICK, check_digest, find_problem, read_manifest
from megadape.checkpoint.reading import Checkpoint
from megadape.errors import CheckpointError
from megadape.parallel.mesh import Mesh


def find_newest(folder: CheckpointFolder, mesh: Mesh) -> Checkpoint | None:
    """The newest checkpoint all of whose files agree with its manifest, or None where there is none; a collective.

    Raises:
        CheckpointError: there are some, and all are damaged: to begin anew would be to lose the run silently.
    """
    first = folder.list() if mesh.is_first else []
    found = mesh.gather([(one.path.name, one.step) for one in first])[0]
    assert isinstance(found, list)
    problems = []
    for name, step in found:
        checkpoint = Checkpoint(folder.path / name, step)
        problem = _problem_anywhere(checkpoint, mesh)
        if problem is None:
            return checkpoint
        problems.append(f"{name}: {problem}")
        if mesh.is_first:
            warn_passed_over(checkpoint, problem)
    if problems:
        raise CheckpointError(
            f"none of the checkpoints in {folder.path} is valid ({'; '.join(problems)}): mend them, or remove them to "
            "begin anew"
        )
    return None


def _problem_anywhere(checkpoint: Checkpoint, mesh: Mesh) -> str | None:
    """Why a checkpoint cannot be trusted, the same on all ranks, or None."""
    problem = find_problem(checkpoint.path, QUICK) if mesh.is_first else None
    told = mesh.gather(problem)[0]
    if told is None:
        told = next((one for one in mesh.gather(_problem_here(checkpoint, mesh)) if one is not None), None)
    return None if told is None else str(told)


def _problem_here(checkpoint: Checkpoint, mesh: Mesh) -> str | None:
    files = read_manifest(checkpoint.path)
    if isinstance(files, str):
        return f"{files} (as rank {mesh.rank} sees it)"
    problems = (
        check_digest(checkpoint.path, name, files[name]) for name in share_files(files, mesh.place.world, mesh.rank)
    )
    return next((problem for problem in problems if problem is not None), None)


def share_files(files: Mapping[str, FileRecord], ranks: int, rank: int) -> list[str]:
    """The files that one rank reads so that all are read by some rank, and each reads about as much."""
    loads, shares = [0] * ranks, [list[str]() for _ in range(ranks)]
    for name in sorted(files, key=lambda one: (-files[one].bytes, one)):
        least = min(range(ranks), key=lambda one: loads[one])
        loads[least] += files[name].bytes
        shares[least].append(name)
    return shares[rank]
