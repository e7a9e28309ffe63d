"""What a rank's training holds between steps, read off its live tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LiveBytes:
    """Bytes of one rank."""

    parameters: int
    optimizer: int
    """Moments, master copies, step counters."""


def measure_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> LiveBytes:
    """Parameters and optimizer of this rank as they are: the memory behind their live tensors, each once.

    Args:
        model: whose parameters are trained.
        optimizer: torch's, which an engine may have given other tensors to work on; its state counts from the first
            update on.
    """
    of_model = _storages(_live_parameters(model))
    of_optimizer = _storages(_optimizer_tensors(optimizer))
    own = of_optimizer.keys() - of_model.keys()
    return LiveBytes(sum(of_model.values()), sum(of_optimizer[key] for key in own))


def _live_parameters(model: nn.Module) -> Iterator[Tensor]:
    for parameter in model.parameters():
        yield parameter.data
        part = getattr(parameter, "ds_tensor", None)  # ZeRO 3 keeps this rank's part there
        if part is not None:
            yield part


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
    for owner, state in optimizer.state.items():
        if isinstance(owner, Tensor):
            yield owner
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Where the tensors' memory is, and how many bytes."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
