"""Tile shapes, and how the kernels of a chunk share its work.

Tile shapes keep numbers in registers on sm_90, as far as that can be; tools/compile_kernels.py prints what they take.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
import triton

from megadape.attention.gpu import walk
from megadape.attention.gpu.chunks import Chunk

LANES: int = walk.LANES.value

STEPS = 16
"""Rows that a tile of offsets should walk at least: fewer would not pay for its tables."""


@dataclass(frozen=True)
class Walk:
    """How the mix goes through a chunk."""

    offsets: int
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True)
class Tiles:
    """Rows x keys of the products with queries, keys and values; the mix, forward and backward."""

    rows: int
    keys: int
    warps: int
    forward: Walk
    backward: Walk


@dataclass(frozen=True)
class Scene:
    """What all kernels of a chunk are told."""

    chunk: Chunk
    heads: int
    lead: int
    """The offset i - j of the chunk's first row and the first key."""
    causal: bool
    tiles: Tiles
    programs: int
    """That a launch should have, so that no part of the device idles."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of scores."""
        return self.chunk.sequences, self.heads, self.chunk.rows, self.chunk.width

    def split(self, tiles: int) -> int:
        """Into how many parts the keys are cut, for a kernel that has only ``tiles`` programs for each head."""
        wanted = self.programs // (tiles * self.heads * self.chunk.sequences)
        return max(1, min(wanted, ceil(self.chunk.keys / self.tiles.keys)))

    def tiles_each(self, splits: int) -> int:
        """Tiles of keys in each part."""
        return ceil(self.chunk.keys / (splits * self.tiles.keys))

    def walk(self, offsets: int) -> tuple[int, int, int]:
        """Tiles of so many offsets, shares of the rows, and steps of a share (walk.py)."""
        chunk, before = self.chunk, ceil(self.chunk.rows / LANES) * LANES
        end = min(chunk.keys, self.lead + LANES) if self.causal else chunk.keys
        tiles, steps = ceil((end + before) / offsets), ceil(chunk.rows / LANES)
        wanted = self.programs // (tiles * LANES * chunk.sequences)
        shares = max(1, min(wanted, steps // STEPS))
        return tiles, shares, ceil(steps / shares)

    @property
    def slots(self) -> int:
        """Programs of the mix, backward, that may meet the same offset."""
        return self.chunk.sequences * self.walk(self.tiles.backward.offsets)[1] * LANES

    @property
    def mix_programs(self) -> int:
        """Programs of the mix, backward."""
        return self.walk(self.tiles.backward.offsets)[0] * self.slots


def choose_tiles(dtype: torch.dtype, heads: int, hidden: int, units: int) -> Tiles:
    """For inputs of a dtype, a mixer, and a network beside the tables."""
    if dtype == torch.float32:  # multiplied without tensor cores
        return Tiles(rows=32, keys=32, warps=4, forward=Walk(32), backward=Walk(32))
    wide = block(heads) > 16 or block(hidden) > 32
    forward, backward = Walk(32 if wide else 64), Walk(32)
    if wide or (hidden and units):
        # Up to 255 registers, or more: none of the tiles tried (32 or 64 offsets, 2 to 8 warps) holds FIRE's network
        # beside the mixer, nor 32 heads beside 64 units. The need hardly shrinks with the tile, so what does not fit is
        # mostly what stays the same in the loop. This shape spills least.
        backward = Walk(32, warps=8, stages=1)
    return Tiles(rows=128, keys=64, warps=8, forward=forward, backward=backward)


def mix_constants(heads: int, hidden: int, units: int, offsets: int, *, residual: bool) -> dict[str, int | bool]:
    """What is compiled into the kernels of the mix, forward and backward."""
    return {
        "HEADS": heads,
        "HIDDEN": hidden,
        "UNITS": units,
        "BLOCK_HEADS": block(heads),
        "BLOCK_HIDDEN": block(hidden),
        "BLOCK_UNITS": block(units),
        "OFFSETS": offsets,
        "RESIDUAL": residual,
    }


def block(size: int) -> int:
    """What a size is filled up to: a power of two that matrix products take."""
    return max(16, triton.next_power_of_2(size))
