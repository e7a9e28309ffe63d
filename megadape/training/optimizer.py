"""AdamW over the parameter table's weight-decay groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from megadape.adamw import build_adamw
from megadape.kernels import Kernels
from megadape.parameters import parameter_table
from megadape.settings import Settings

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, by torch's names, which apex and DeepSpeed use too."""


class OptimizerSettings(Settings):
    """AdamW (Loshchilov and Hutter, 2019) with the paper's values."""

    learning_rate: float = Field(default=6e-4, gt=0)
    """Peak learning rate."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""

    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""

    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay; biases and norms are exempt."""

    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the whole gradient; 0 leaves it as it is."""


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups, with and without decay, in the order of the parameter table; an empty one is left out."""
    parameters = dict(model.named_parameters())
    table = parameter_table(model)
    groups = []
    for decays in (True, False):
        members = [parameters[name] for name, spec in table.items() if spec.decay is decays]
        if members:
            groups.append({"params": members, "weight_decay": weight_decay if decays else 0.0})
    return groups


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, kernels: Kernels | None = None
) -> torch.optim.Optimizer:
    """AdamW: torch's fused one, or that of the kernels chosen; the learning rate is set anew at each step."""
    groups = decay_groups(model, settings.weight_decay)
    betas = (settings.beta1, settings.beta2)
    build = kernels.optimizer if kernels is not None else build_adamw
    return build(groups, settings.learning_rate, betas, settings.eps)


OptimizerBuilder = Callable[[nn.Module, OptimizerSettings], torch.optim.Optimizer]
"""Makes an AdamW over ``decay_groups`` of a model; ``build_optimizer`` unless kernels say otherwise."""


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same learning rate in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def read_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Moment -> name -> the optimizer's own tensor, of tensors that it has updated."""
    return {moment: {name: optimizer.state[tensor][moment] for name, tensor in tensors.items()} for moment in MOMENTS}


def write_moments(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    updates: int,
    moments: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Give an optimizer the state that it had after so many updates.

    Args:
        optimizer: any AdamW.
        tensors: what it updates, by name.
        updates: how many it has made.
        moments: moment -> name -> tensor, copied.
    """
    in_torch = isinstance(optimizer, torch.optim.AdamW)
    for name, tensor in tensors.items():
        taken = {moment: moments[moment][name].to(tensor.device, copy=True) for moment in MOMENTS}
        # torch counts updates in a tensor of each parameter, apex and DeepSpeed in a number, of the group or of each
        step = torch.tensor(float(updates), device=tensor.device) if in_torch else updates
        optimizer.state[tensor] = {"step": step, **taken}
    if not in_torch:
        for group in optimizer.param_groups:
            group["step"] = updates
