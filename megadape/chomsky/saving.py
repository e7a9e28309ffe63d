"""The checkpoint of an experiment: one safetensors file, there whole or not at all.

Parameters and Adam's moments stand in it by name, the step in its header: they cannot disagree.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from megadape.data.files import write_whole
from megadape.errors import CheckpointError

FILE = "state.safetensors"


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the state after a step in place of an older one."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    write_whole(folder / FILE, save(whole, {"format": "pt", "step": str(step)}))


def restore_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put model and optimizer where the folder's checkpoint has them; the steps made, 0 where there is none.

    Raises:
        CheckpointError: the file is damaged, or of another model.
    """
    path = folder / FILE
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        _put(tensors, model, optimizer)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as this experiment's checkpoint: {error}; remove it to start from the first step"
        ) from error
    return step


@torch.no_grad()
def _put(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state: dict[Tensor, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        stored = tensors[f"model.{name}"]
        if stored.shape != parameter.shape:
            raise ValueError(f"{name} is {list(stored.shape)}, not {list(parameter.shape)}")
        parameter.copy_(stored)
        state[parameter] = {
            "step": tensors[f"optimizer.step.{name}"],
            **{key: tensors[f"optimizer.{key}.{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")},
        }
    optimizer.state.update(state)
