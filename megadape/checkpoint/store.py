"""Checkpoints on disk: a folder a step, complete or not there.

    step-00000200/
      model.safetensors       full named tensors, float32
      optimizer.safetensors   MOMENT/NAME -> full tensor
      state.json              everything else
      manifest.json           size and SHA-256 of each of the above; written last

A checkpoint is written under a temporary name, every file flushed to the disk, the manifest last; then it is renamed.
What a killed run leaves behind has another name, and what a disk damaged does not match its manifest: neither is ever
loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megadape.errors import CheckpointError

MANIFEST, STATE = "manifest.json", "state.json"
NAME = re.compile(r"step-(\d{8})")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files agree with its manifest."""

    path: Path
    step: int

    def tensors(self, name: str) -> dict[str, Tensor]:
        """All tensors of one file (``model`` or ``optimizer``), on the CPU."""
        try:
            return load_file(self.path / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path / name}.safetensors cannot be read: {error}") from error

    def state(self) -> dict[str, Any]:
        """What is not a tensor."""
        state: dict[str, Any] = json.loads((self.path / STATE).read_text())
        return state


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: holds one folder a checkpoint; made when first written.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        assert keep >= 1
        self.folder = folder
        self.keep = keep

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint, then drop the oldest beyond ``keep``.

        Args:
            step: updates done.
            tensors: file -> tensor name -> tensor.
            state: JSON.

        Raises:
            CheckpointError: the disk refused; nothing that could be loaded is left of this checkpoint, older ones
                remain.
        """
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}.partial-{os.getpid()}"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            for name, content in tensors.items():
                file = partial / f"{name}.safetensors"
                save_file({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, file)
                _flush(file)
            _write_json(partial / STATE, state)
            _write_json(partial / MANIFEST, {"files": _describe(partial)})
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(f"checkpoint {final} could not be written: {error}") from error
        self._drop_old()
        return final

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose files agree with its manifest, or None; says which it passed over and why."""
        for path in reversed(self._paths()):
            problem = _problem(path)
            if problem is None:
                return Checkpoint(path, _step(path))
            logger.warning("checkpoint %s is passed over: %s", path, problem)
        return None

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if NAME.fullmatch(path.name))

    def _drop_old(self) -> None:
        for path in self._paths()[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)
        for partial in self.folder.glob(".step-*.partial-*"):
            shutil.rmtree(partial, ignore_errors=True)


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(folder.iterdir())}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name, expected in files.items():
            file = path / Path(name).name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
            if _digest(file) != expected["sha256"]:
                return f"{name} is damaged (its SHA-256 differs from the manifest's)"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None if {"model.safetensors", STATE} <= files.keys() else "its manifest names no model"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
