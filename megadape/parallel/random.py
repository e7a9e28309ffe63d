"""Random streams under tensor parallelism.

The ranks that share one model share one stream: what they hold alike (dropout on replicated activations) is dropped
alike. Where each rank works on its own part, its stream must be its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from megadape.parallel.group import Group


@contextmanager
def own_stream(group: Group, device: torch.device, *, active: bool = True) -> Iterator[None]:
    """Within the block this rank draws apart from the others of the group; afterwards they draw alike again.

    The stream inside is seeded from the shared one: nothing more needs to be saved, and recomputed activations repeat.
    """
    if group.size == 1 or not active:
        yield
        return
    seed = int(torch.randint(1 << 62, (), device="cpu"))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed + group.rank)
        yield
