"""Sequences of a batch side by side: [b, h, s, d] and [h b, s, d], heads outermost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.tiled.blocks import Block


@dataclass(frozen=True)
class Fold:
    """Some sequences of a batch, against the rows and keys of one block."""

    sequences: slice
    block: Block
    dtype: torch.dtype

    def rows(self, x: Tensor) -> Tensor:
        """The block's rows, reversed: [b, h, q, d] -> [h b, rows, d]."""
        return self._fold(x[self.sequences, :, self.block.first : self.block.end]).flip(1)

    def keys(self, x: Tensor) -> Tensor:
        """The block's keys: [b, h, k, d] -> [h b, keys, d]; a view of a single sequence."""
        return self._fold(x[self.sequences, :, : self.block.keys])

    def put_rows(self, out: Tensor, x: Tensor) -> None:
        """The inverse of ``rows``, into ``out``."""
        part = out[self.sequences, :, self.block.first : self.block.end]
        part.copy_(self._unfold(x.flip(1), part))

    def add_product(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """Adds a^T b, of [h b, rows, keys] and [h b, rows, d], to the keys of ``out`` [b, h, k, d]."""
        part = out[self.sequences, :, : self.block.keys]
        if len(part) == 1:
            part[0].baddbmm_(a.mT, b)
        else:
            part += self._unfold(torch.bmm(a.mT, b), part)

    def _fold(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).transpose(0, 1).flatten(0, 1)

    def _unfold(self, x: Tensor, like: Tensor) -> Tensor:
        return x.unflatten(0, (like.shape[1], like.shape[0])).transpose(0, 1)
