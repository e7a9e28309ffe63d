"""What a person asks of a checkpoint: what is in it, and whether it is sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megadape.checkpoint.folder import NAME, CheckpointFolder
from megadape.checkpoint.manifest import FULL, MANIFEST, QUICK, find_problem
from megadape.checkpoint.reading import MODEL, Checkpoint
from megadape.errors import CheckpointError

COLUMNS = ("tensor", "shape", "numbers", "type", "axis", "file")


@dataclass(frozen=True)
class Inspection:
    """A checkpoint in words."""

    facts: tuple[tuple[str, str], ...]
    """What, and its value."""

    tensors: tuple[tuple[str, ...], ...]
    """Rows of ``COLUMNS``, one a parameter."""


@dataclass(frozen=True)
class Verdict:
    """Whether a checkpoint is sound."""

    path: Path
    problem: str | None

    def __str__(self) -> str:
        return f"{self.path}: {self.problem or 'sound'}"


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint by its own folder, or the newest sound one by the folder of its run.

    Raises:
        CheckpointError: there is none.
    """
    if (path / MANIFEST).is_file():
        match = NAME.fullmatch(path.name)
        return Checkpoint(path, int(match[1]) if match else 0)
    newest = next((found for folder in _folders(path) if (found := folder.newest(QUICK))), None)
    if newest is None:
        raise CheckpointError(f"there is no checkpoint in {path}: name a run folder, or a folder like step-00001000")
    return newest


def verify(path: Path, full: bool) -> list[Verdict]:
    """Look at a checkpoint, or at all of a run, newest first.

    Args:
        path: of one, or of a run.
        full: read everything and compare digests; else sizes alone.

    Raises:
        CheckpointError: there is none.
    """
    checks = FULL if full else QUICK
    own = NAME.fullmatch(path.name) or (path / MANIFEST).is_file()
    paths = [path] if own and path.is_dir() else [one.path for folder in _folders(path) for one in folder.list()]
    if not paths:
        raise CheckpointError(f"there is no checkpoint in {path}: name a run folder, or a folder like step-00001000")
    return [Verdict(one, find_problem(one, checks)) for one in paths]


def inspect_checkpoint(path: Path) -> Inspection:
    """What is in a checkpoint; ``path`` as in ``open_checkpoint``.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    checkpoint = open_checkpoint(path)
    state, manifest = checkpoint.state(), checkpoint.manifest()
    parameters = {name: place for name, place in checkpoint.index.items() if place.kind == MODEL}
    numbers = sum(torch.Size(place.tensor.shape).numel() for place in parameters.values())
    facts = [
        ("checkpoint", str(checkpoint.path)),
        ("step", f"{checkpoint.step:,}"),
        ("format", str(manifest.get("format", 1))),
        ("parameters", f"{numbers:,} in {len(parameters)} tensors"),
        ("moments", ", ".join(checkpoint.moments()) or "none"),
        ("bytes", f"{sum(one['bytes'] for one in manifest['files'].values()):,} in {len(manifest['files'])} files"),
        *((key, _words(manifest[key])) for key in ("written_by",) if key in manifest),
        *((key, _words(value)) for key, value in _facts_of(state)),
    ]
    rows = [
        (
            name,
            " x ".join(str(size) for size in place.tensor.shape) or "scalar",
            f"{torch.Size(place.tensor.shape).numel():,}",
            place.tensor.dtype,
            "-" if place.tensor.shard_axis is None else str(place.tensor.shard_axis),
            place.file,
        )
        for name, place in sorted(parameters.items(), key=lambda item: _by_number(item[0]))
    ]
    return Inspection(tuple(facts), tuple(rows))


def _folders(path: Path) -> Iterator[CheckpointFolder]:
    yield CheckpointFolder(path / "checkpoints")
    yield CheckpointFolder(path)


def _facts_of(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a person wants to know of a state: not its random streams, which are long."""
    for key, value in state.items():
        if key not in ("random", "identity", "format"):
            yield key, value


def _words(value: object, prefix: str = "") -> str:
    if not isinstance(value, Mapping):
        return str(value)
    flat = [f"{key}: ({_words(one)})" if isinstance(one, Mapping) else f"{key} {one}" for key, one in value.items()]
    return ", ".join(flat)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key by which block 10 comes after block 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
