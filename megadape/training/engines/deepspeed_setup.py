"""What every DeepSpeed engine needs first: the library made ready, the mesh and the parameters in its terms."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed as dist

from megadape.adamw import AdamW
from megadape.errors import ConfigurationError, TrainingError
from megadape.model import GPT
from megadape.parallel.group import Group
from megadape.parallel.mesh import Mesh
from megadape.parameters import parameter_table
from megadape.training.settings import TrainingSettings


def import_deepspeed(device: torch.device) -> Any:  # noqa: ANN401
    """Import DeepSpeed, made ready for this device."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise TrainingError(
            "training.engine is deepspeed, which is not installed: pip install deepspeed==0.19.8"
        ) from error
    # a shared-memory op that only inference uses; else a minute of compilation at every start, or an error without a
    # compiler
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # torch's own in all but its class, and DeepSpeed warns of every class that it does not know
    known = deepspeed.runtime.zero.utils.ZERO_SUPPORTED_OPTIMIZERS
    if AdamW not in known:
        known.append(AdamW)
    return deepspeed


def initialise_deepspeed(
    training: TrainingSettings,
    mesh: Mesh,
    config: dict[str, Any],
    **arguments: object,
) -> Any:  # noqa: ANN401
    """DeepSpeed's engine over the mesh's process group.

    Args:
        training: whose ``deepspeed`` is in the configuration, and is to blame for what DeepSpeed refuses.
        mesh: the ranks.
        config: the whole configuration.
        arguments: of ``deepspeed.initialize``.

    Raises:
        ConfigurationError: DeepSpeed does not take a value of the user's.
    """
    deepspeed = import_deepspeed(mesh.device)
    from deepspeed.runtime.config import DeepSpeedConfigError

    os.environ.setdefault("LOCAL_RANK", str(mesh.place.local_rank))  # srun gives it another name
    deepspeed.init_distributed(dist_backend="nccl" if mesh.device.type == "cuda" else "gloo", verbose=False)
    try:
        engine, *_ = deepspeed.initialize(config=config, **arguments)
    except (ValueError, AssertionError, DeepSpeedConfigError) as error:
        if training.deepspeed is None:
            raise
        raise ConfigurationError(f"DeepSpeed does not take training.deepspeed: {error}") from error
    return engine


def mark_tensor_parallel(model: GPT, mesh: Mesh) -> None:
    """Tell DeepSpeed which parameters differ over tensor-parallel ranks: it counts the others once in a norm."""
    parameters = dict(model.named_parameters())
    for name, spec in parameter_table(model).items():
        sharded = mesh.tp.size > 1 and spec.shard_axis is not None
        for mark in ("model_parallel", "tensor_model_parallel"):
            setattr(parameters[name], mark, sharded)


class MeshTopology:
    """The mesh by the names that DeepSpeed asks for (an "mpu").

    Args:
        mesh: the ranks.
        model: over which of its groups DeepSpeed sums the squares of a norm: tp, or all ranks of a model where several
            stages share one DeepSpeed optimizer.
    """

    def __init__(self, mesh: Mesh, model: Group | None = None) -> None:
        self._data, self._model = mesh.dp, model or mesh.tp

    def get_data_parallel_rank(self) -> int:
        """Which share of the data."""
        return self._data.rank

    def get_data_parallel_world_size(self) -> int:
        """How many shares."""
        return self._data.size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Ranks with the same parameters."""
        return handle_of(self._data)

    def get_model_parallel_rank(self) -> int:
        """Which part of the model."""
        return self._model.rank

    def get_model_parallel_world_size(self) -> int:
        """How many parts."""
        return self._model.size

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Ranks with one model together."""
        return handle_of(self._model)


def handle_of(group: Group) -> dist.ProcessGroup:
    """Torch's group; DeepSpeed wants one even where it has a single rank."""
    assert group.handle is not None, "DeepSpeed needs a mesh with a process group"
    return group.handle
