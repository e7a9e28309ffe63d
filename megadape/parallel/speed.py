"""How fast ranks sum a tensor: that they can, and the numbers of a network."""

from __future__ import annotations

import time

import torch
from torch import distributed as dist

NUMBERS = {"cuda": 2**26, "cpu": 2**20}
"""float32 numbers of the tensor that is all-reduced: 256 MiB, or 4 MiB."""

ROUNDS = 5


def all_reduce_speed(world: int) -> str:
    """Sum a tensor over all ranks of the default group, and say in words how many bytes a second a rank moves.

    Raises:
        RuntimeError: the sum is wrong.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    tensor = torch.ones(NUMBERS[kind], device=kind)
    dist.all_reduce(tensor)  # connections are made by the first one
    if float(tensor[0]) != world:
        raise RuntimeError(f"{world} ones sum to {float(tensor[0]):g}")
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(tensor)
        if kind == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    moved = 2 * (world - 1) / world * tensor.numel() * tensor.element_size()
    return f"{moved / sorted(times)[ROUNDS // 2] / 1e9:.2f} GB/s"
