"""A copy of a rank's tensors in CPU memory, taken while training waits and kept until it is written."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Snapshot:
    """Copies tensors into memory that is used again for the next copy: getting it takes longer than filling it.

    Args:
        device: where the tensors come from; memory is pinned for an accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._room: dict[str, Tensor] = {}

    def take(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Copies by name, in the order given; those of an earlier call are overwritten."""
        accelerated = self.device.type == "cuda"
        copies = {
            name: self._room_for(name, tensor).copy_(tensor, non_blocking=accelerated) for name, tensor in tensors
        }
        if accelerated:
            torch.cuda.synchronize(self.device)
        self._room = dict(copies)
        return copies

    def _room_for(self, name: str, tensor: Tensor) -> Tensor:
        room = self._room.get(name)
        if room is not None and (room.shape, room.dtype) == (tensor.shape, tensor.dtype):
            return room
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.device.type == "cuda")
