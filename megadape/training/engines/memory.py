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


class LiveMemory:
    """``measure_bytes`` of a run, at every step: once the optimizer has its state and says the same twice, that stays
    so, and the many tensors are not asked again: on a GPU this takes time in which nothing is queued."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._last, self._settled = LiveBytes(0, 0), False

    def read(self) -> LiveBytes:
        """What is held now."""
        if not self._settled:
            now = measure_bytes(self._model, self._optimizer)
            self._settled = bool(self._optimizer.state) and now == self._last
            self._last = now
        return self._last


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
