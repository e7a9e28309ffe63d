"""AdamW over the parameter table's weight-decay groups."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from megadape.parameters import parameter_table
from megadape.settings import Settings


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


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """torch's fused AdamW; the learning rate is set anew at each step."""
    return torch.optim.AdamW(
        decay_groups(model, settings.weight_decay),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same learning rate in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
