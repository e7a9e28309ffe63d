"""The parts that the ranks of a layout hold, built by the model's own code on the meta device."""

from __future__ import annotations

import torch

from megadape.model import GPT, Architecture, Part
from megadape.parallel.group import Group
from megadape.parallel.settings import ParallelSettings
from megadape.parallel.sharding import Sharding
from megadape.training.pipeline.placement import count_stages, part_of, places_of


def parts_of(architecture: Architecture, parallel: ParallelSettings) -> tuple[Part, ...]:
    """What each pipeline stage holds."""
    return tuple(part_of(architecture, parallel, stage) for stage in range(parallel.pp))


def build_part(architecture: Architecture, parallel: ParallelSettings, part: Part) -> GPT:
    """The module of a first tensor-parallel rank, without memory behind it; nothing can be said over its group."""
    ranks = Group(tuple(range(parallel.tp)))
    with torch.device("meta"):
        sharding = Sharding(ranks, parallel.sequence_parallel, parallel.mixing)
        return GPT(architecture, sharding=sharding, part=part)


def crossings(parallel: ParallelSettings, stage: int) -> tuple[int, int]:
    """Of a rank's virtual stages, how many get activations from another rank, and how many give them to one."""
    places, last = places_of(parallel, stage), count_stages(parallel) - 1
    inputs = sum(place > 0 and place - 1 not in places for place in places)
    outputs = sum(place < last and place + 1 not in places for place in places)
    return inputs, outputs
