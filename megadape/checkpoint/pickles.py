"""Files that were made with pickle: whoever wrote one can run code on the machine that reads it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from megadape.errors import CheckpointError


def load_pickled(path: Path, trust: bool) -> Any:  # noqa: ANN401
    """Read a file of ``torch.save``, on the CPU; only as tensors and plain values wherever it is nothing more.

    Raises:
        CheckpointError: it is not trusted, or cannot be read.
    """
    if not trust:
        raise CheckpointError(
            f"{path} is a pickle, and reading one can run any code of whoever wrote it: give --trust if you know where "
            "it comes from"
        )
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # settings as objects of their project, beside the tensors
            return torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ImportError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
