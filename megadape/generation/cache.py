"""Keys and values of texts that are being read, so that no token is read twice."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 64
"""Tokens that a cache has room for at least."""


class LayerCache:
    """Keys and values of one layer; room doubles, so that a token's share of all copying is constant."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor] | None = None

    def write(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Put keys and values [b, heads, s, d] behind the first ``start`` tokens; return all of them, as views.

        Heads of keys and of values may differ.
        """
        end = start + k.shape[2]
        if self._held is None:
            self._held = _room(k, end), _room(v, end)
        elif self._held[0].shape[2] < end:
            old_k, old_v = self._held
            self._held = _room(k, end), _room(v, end)
            for new, old in zip(self._held, (old_k, old_v), strict=True):
                new[:, :, :start] = old[:, :, :start]
        for all_tokens, written in zip(self._held, (k, v), strict=True):
            all_tokens[:, :, start:end] = written
        return self._held[0][:, :, :end], self._held[1][:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep these texts, in this order; one may be named several times."""
        if self._held is not None:
            self._held = self._held[0].index_select(0, rows), self._held[1].index_select(0, rows)


class Cache:
    """What a model keeps of texts of one length.

    Args:
        layers: of the model.
    """

    def __init__(self, layers: int) -> None:
        self.layers = [LayerCache() for _ in range(layers)]
        self.tokens: Tensor | None = None
        """[b, length], kept for encodings that must read anew; None before anything is read."""
        self.stretch = 0
        """What of the length decided how they were read: see ``PositionEncoding.stretch``."""

    @property
    def length(self) -> int:
        """Tokens read of each text."""
        return 0 if self.tokens is None else self.tokens.shape[1]

    def add(self, tokens: Tensor, stretch: int) -> None:
        """Take note of tokens [b, s] whose keys and values are written."""
        self.tokens = tokens if self.tokens is None else torch.cat((self.tokens, tokens), dim=1)
        self.stretch = stretch

    def clear(self) -> None:
        """Forget what was read; the room stays."""
        self.tokens = None

    def select(self, rows: Tensor) -> None:
        """Keep these texts, in this order; one may be named several times."""
        assert self.tokens is not None, "nothing is read"
        self.tokens = self.tokens.index_select(0, rows)
        for layer in self.layers:
            layer.select(rows)


def _room(like: Tensor, tokens: int) -> Tensor:
    """Room for the next power of two."""
    capacity = max(SMALLEST, 1 << (tokens - 1).bit_length())
    return like.new_empty(*like.shape[:2], capacity, like.shape[3])
