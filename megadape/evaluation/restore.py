"""From a run folder to a model that can be evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megadape.checkpoint import CheckpointFolder
from megadape.checkpoint.manifest import MODEL_ONLY
from megadape.checkpoint.reading import Checkpoint
from megadape.errors import CheckpointError
from megadape.model import GPT, Architecture
from megadape.parallel.group import Group
from megadape.parallel.sharding import WHOLE, Sharding
from megadape.parameters import allocate, parameter_table


@dataclass(frozen=True)
class RestoredModel:
    """The newest checkpoint's model, in evaluation mode."""

    model: GPT
    step: int
    path: Path

    @property
    def training_length(self) -> int:
        """Tokens of a training sequence."""
        return self.model.architecture.training_length


def restore_model(run_dir: Path, device: torch.device, sharding: Sharding = WHOLE) -> RestoredModel:
    """Build the model of a run's newest valid checkpoint.

    Args:
        run_dir: the run's folder.
        device: where to put it.
        sharding: how this rank holds it; no more than its part is read.

    Raises:
        CheckpointError: no such run, no checkpoint, or tensors that do not fit its architecture.
        ConfigurationError: the model does not divide over the tensor-parallel ranks.
    """
    checkpoint = CheckpointFolder(run_dir / "checkpoints").newest(MODEL_ONLY)
    if checkpoint is None:
        there = "has no valid checkpoint" if run_dir.is_dir() else "does not exist"
        raise CheckpointError(f"run folder {run_dir} {there}: train it first, with megadape train")
    architecture = Architecture.model_validate(checkpoint.state()["architecture"])
    with torch.device("meta"):
        model = GPT(architecture, sharding=sharding)
    allocate(model, device)
    try:
        model.load_state_dict(own_tensors(checkpoint, model))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path} does not fit its own architecture: {error}") from error
    return RestoredModel(model.eval(), checkpoint.step, checkpoint.path)


def own_tensors(checkpoint: Checkpoint, model: GPT) -> dict[str, Tensor]:
    """A checkpoint's parameters as this rank holds them."""
    if model.sharding.tp.size == 1:
        return checkpoint.tensors("model")
    return {name: checkpoint.read_part(name, spec) for name, spec in parameter_table(model).items()}


def share_rows(model: GPT, context: Group) -> GPT:
    """The same parameters in a model whose ranks share the rows of every sequence."""
    if context.size == 1:
        return model
    with torch.device("meta"):
        shared = GPT(model.architecture, sharding=Sharding(context=context))
    shared.load_state_dict(model.state_dict(), assign=True)
    return shared.eval()
