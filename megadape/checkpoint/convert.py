"""Checkpoints to and from other projects, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from megadape.checkpoint.foreign import Foreign, read_foreign
from megadape.checkpoint.inspection import open_checkpoint
from megadape.checkpoint.manifest import find_problem
from megadape.checkpoint.settings import CheckpointSettings
from megadape.checkpoint.universal import write_universal
from megadape.checkpoint.writer import CheckpointWriter
from megadape.errors import CheckpointError
from megadape.parallel.mesh import Mesh, Place


def convert_to_universal(path: Path, out: Path) -> Path:
    """A checkpoint, or the newest of a run, as a DeepSpeed universal one.

    Args:
        path: of the checkpoint or of its run.
        out: folder for DeepSpeed's ``load_checkpoint``.

    Returns:
        What was made in it.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or the disk refused.
    """
    checkpoint = open_checkpoint(path)
    problem = find_problem(checkpoint.path)
    if problem:
        raise CheckpointError(f"{checkpoint.path} is not converted: {problem}")
    return write_universal(checkpoint, out)


def convert_from_foreign(foreign: Foreign, out: Path, state: Mapping[str, Any]) -> Path:
    """A checkpoint of another project as one of ours, with parameters alone, at step 0.

    Args:
        foreign: what to read.
        out: run folder; must have no checkpoints yet.
        state: JSON that belongs to it (``architecture``).

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: it cannot be read, does not fit, or the disk refused.
    """
    folder = out / "checkpoints"
    if folder.exists():
        raise CheckpointError(f"{folder} is there already: choose another folder")
    parameters = read_foreign(foreign)
    writer = CheckpointWriter(folder, Mesh(Place(), torch.device("cpu")), CheckpointSettings())
    writer.take_over()
    saved = writer.save(
        0, parameters, {}, foreign.table, {**state, "updates": 0, "converted_from": str(foreign.source)}
    )
    assert saved is not None
    return saved.path
