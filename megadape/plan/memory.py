"""What a rank keeps between steps, byte by byte: parameters, AdamW's state, gradients, and DeepSpeed's buffers.

Training keeps parameters, gradients and both moments in float32 in every precision; bfloat16 copies of weights live
within a forward and backward pass only (see ``activations``). ``megadape.training.engines.memory`` reports the same
figures of live tensors.

What DeepSpeed 0.19.8 holds over d data-parallel ranks, for the two parameter groups (with and without weight decay):

    ZeRO 1, 2   parameters: each group flat, padded to a multiple of 2 d; each rank a master copy and two moments of
                1/d of it, and a step counter a group
    ZeRO 3      parameters: of each its 1/d, padded to a multiple of d; those of up to 100,000 numbers are kept whole
                as well; master copy and moments of the parts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from megadape.training.optimizer import decay_groups

FLOAT = 4
"""Bytes of a number that lives between steps."""

MOMENTS = 2
"""AdamW's."""


@dataclass(frozen=True)
class ZeroSizes:
    """DeepSpeed's buffers and thresholds, in numbers."""

    bucket: int = 500_000_000
    """In which gradients are reduced (zero_optimization.reduce_bucket_size)."""

    persistent: int = 100_000
    """Parameters of up to so many ZeRO 3 keeps whole on each rank (stage3_param_persistence_threshold)."""

    prefetched: int = 50_000_000
    """So many ZeRO 3 gathers ahead of the block at work (stage3_prefetch_bucket_size)."""

    @staticmethod
    def from_deepspeed(zero: Mapping[str, Any]) -> ZeroSizes:
        """What a user gave DeepSpeed under zero_optimization, or its defaults."""
        default = ZeroSizes()

        def read(name: str, otherwise: int) -> int:
            return int(zero.get(f"stage3_{name}", zero.get(name, otherwise)))

        return ZeroSizes(
            read("reduce_bucket_size", default.bucket),
            read("param_persistence_threshold", default.persistent),
            read("prefetch_bucket_size", default.prefetched),
        )


@dataclass(frozen=True)
class StateBytes:
    """Bytes of one rank."""

    parameters: int
    optimizer: int
    """Moments, master copies, step counters."""

    gradients: int = 0
    """At the end of the last micro-batch."""

    buffers: int = 0
    """In which DeepSpeed reduces gradients."""

    on_cpu: int = 0
    """The optimizer's, where it is offloaded."""

    @property
    def total(self) -> int:
        """On the GPU."""
        return self.parameters + self.optimizer + self.gradients + self.buffers


def state_bytes(
    model: nn.Module, *, zero: int, data_ranks: int, offload: bool = False, sizes: ZeroSizes = ZeroSizes()
) -> StateBytes:
    """What a rank holds that trains its part of a model (the meta device will do)."""
    groups = [[p.numel() for p in _members(group)] for group in decay_groups(model, 1.0)]
    state = _STAGES[zero](groups, data_ranks, sizes)
    return replace(state, optimizer=0, on_cpu=state.optimizer) if offload else state


def _members(group: dict[str, object]) -> list[Tensor]:
    members = group["params"]
    assert isinstance(members, list)
    return members


def _replicated(groups: list[list[int]], ranks: int, sizes: ZeroSizes) -> StateBytes:
    numbers, parameters = sum(map(sum, groups)), sum(map(len, groups))
    # torch's AdamW counts the steps of every parameter
    return StateBytes(FLOAT * numbers, FLOAT * (MOMENTS * numbers + parameters), FLOAT * numbers)


def _flat(groups: list[list[int]], ranks: int) -> tuple[int, int]:
    """Numbers of the flat parameters, and bytes of this rank's share of the optimizer."""
    flat = [_round_up(sum(group), 2 * ranks) for group in groups]
    return sum(flat), sum(FLOAT * (1 + MOMENTS) * (size // ranks) + FLOAT for size in flat)


def _optimizer_sharded(groups: list[list[int]], ranks: int, sizes: ZeroSizes) -> StateBytes:
    flat, optimizer = _flat(groups, ranks)
    # whole gradients gather over the micro-batches; this rank's share of their mean is a copy
    gradients = FLOAT * (sum(map(sum, groups)) + flat // ranks)
    return StateBytes(FLOAT * flat, optimizer, gradients, FLOAT * sizes.bucket)


def _gradients_sharded(groups: list[list[int]], ranks: int, sizes: ZeroSizes) -> StateBytes:
    flat, optimizer = _flat(groups, ranks)
    return StateBytes(FLOAT * flat, optimizer, FLOAT * (flat // ranks), FLOAT * sizes.bucket)


def _all_sharded(groups: list[list[int]], ranks: int, sizes: ZeroSizes) -> StateBytes:
    parts = [-(-size // ranks) for group in groups for size in group]
    whole = sum(_round_up(size, ranks) for group in groups for size in group if size <= sizes.persistent)
    numbers = sum(parts)
    optimizer = FLOAT * ((1 + MOMENTS) * numbers + len(groups))
    # gathered for a while: what is at work, no less than the largest parameter, and what comes next
    gathered = min(sum(map(sum, groups)), max(map(max, groups)) + sizes.prefetched)
    return StateBytes(FLOAT * (numbers + whole), optimizer, FLOAT * numbers, FLOAT * (sizes.bucket + gathered))


_STAGES = {0: _replicated, 1: _optimizer_sharded, 2: _gradients_sharded, 3: _all_sharded}


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
