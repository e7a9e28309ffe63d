"""Over how many ranks, and in which way, a run is spread."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megadape.settings import Settings


class ParallelSettings(Settings):
    """Degrees of parallelism; data parallelism takes the ranks that are left."""

    tp: int = Field(default=1, ge=1)
    """Tensor-parallel ranks; must divide the heads."""

    pp: int = Field(default=1, ge=1)
    """Pipeline stages; at most one a layer."""

    zero: Literal[0, 1] = 0
    """ZeRO stage (engine deepspeed): 1 shards the optimizer's state over the data-parallel ranks."""
