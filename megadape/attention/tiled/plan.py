"""What both walks share: a call without its tensors, cut into blocks and tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.tiled.blocks import Block, Visibility
from megadape.attention.tiled.fold import Fold
from megadape.attention.tiled.mixing import Mixing
from megadape.attention.tiled.sources import Source


@dataclass(frozen=True)
class Plan:
    """A block is one batch of matrix products; within it, tiles of whole rows are mixed one after another."""

    blocks: tuple[Block, ...]
    visibility: Visibility
    mixing: Mixing
    source: Source
    scale: float

    dtype: torch.dtype
    """Of all arithmetic."""

    tile_pairs: int
    """Pairs in a tile; at least one row is taken."""

    def pack(self, keys: Tensor) -> Tensor:
        """Keys or values [b, h, k, d] as products read them fastest, where blocks of one sequence read it often."""
        alone = len(self.blocks) > 1 and self.blocks[0].pairs * 2 > self.tile_pairs
        return keys.to(self.dtype).contiguous() if alone else keys

    def folds(self, block: Block, batch: int) -> Iterator[Fold]:
        """Short sequences share a tile; else each is taken alone."""
        step = max(1, self.tile_pairs // block.pairs)
        return (Fold(slice(first, min(first + step, batch)), block, self.dtype) for first in range(0, batch, step))

    def tiles(self, block: Block) -> Iterator[slice]:
        """Slices of the block's reversed rows."""
        step = max(1, self.tile_pairs // block.keys)
        return (slice(first, min(first + step, block.rows)) for first in range(0, block.rows, step))
