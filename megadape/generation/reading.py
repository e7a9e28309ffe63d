"""A model that reads texts token by token, and says what may follow.

What it says equals, at every token, what the whole model says of the text so far. Encodings for which the length
decides how a text is read (``PositionEncoding.stretch``: YaRN without a factor past the training length, randomised
positions) change, whenever a text grows, what every layer but the first makes of every earlier token. Then there is
nothing to keep, not even keys that are not turned yet, and the text is read anew. ``read_as`` avoids that: texts are
read as the beginning of one of that length.

Texts of one length share a cache and a call of attention; all else is done for all texts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from megadape.generation.cache import Cache
from megadape.generation.heads import CachedAttention, choose_attention
from megadape.model import GPT
from megadape.model.block import Block
from megadape.model.gpt import at_least_float32
from megadape.model.layout import Layout, rotate
from megadape.positions import RotaryEncoding

CHUNK = 4096
"""Tokens of prompts that go through the model at once, where attention can."""


@dataclass(frozen=True)
class Piece:
    """New tokens of texts of one length."""

    tokens: Tensor
    """[b, s]."""

    cache: Cache

    layout: Layout
    """Of the length that the texts are read as; ``own`` are the new tokens' positions."""

    @property
    def end(self) -> int:
        """Tokens with these."""
        return self.cache.length + self.tokens.shape[1]


class Reader:
    """Reads with a model, or with one rank's part of every layer; then all ranks must call it alike.

    Args:
        model: all layers, in evaluation mode.
        read_as: tokens that texts are taken to have, at least, where the length decides how they are read.
    """

    @torch.inference_mode()
    def __init__(self, model: GPT, read_as: int = 0) -> None:
        assert len(model.part.layers) == model.settings.num_layers, "pipeline stages do not generate"
        assert not model.training, "positions would be drawn anew"
        self.model, self.read_as = model, read_as
        self.encoding = model.encoding(model.part.layers[0])
        self.blocks = [cast(Block, model.blocks[str(layer)]) for layer in model.part.layers]
        self.attentions: list[CachedAttention] = [
            choose_attention(block.attention.encoding(model.shared_positions), block.attention.mixer, model.sharding.tp)
            for block in self.blocks
        ]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.output_weight().device

    @torch.inference_mode()
    def open(self, tokens: Tensor) -> tuple[Cache, Tensor]:
        """Read the beginnings of texts of one length: ids [b, s], s >= 1.

        Returns:
            What is kept of them, and the logits of their next tokens, [b, vocabulary].
        """
        cache = Cache(len(self.blocks))
        return cache, self._logits(self._read_many(tokens, cache))

    @torch.inference_mode()
    def read(self, texts: Sequence[tuple[Cache, Tensor]]) -> Tensor:
        """Read one more token of every text.

        Args:
            texts: those of one length each, and their next tokens [b].

        Returns:
            Logits of the tokens that come then, one text after the other: [sum of b, vocabulary].
        """
        growing = [cache.stretch != self._stretch(cache.length + 1) for cache, _ in texts]
        lasting = [
            self._piece(ids[:, None], cache, cache.length + 1)
            for (cache, ids), grows in zip(texts, growing, strict=True)
            if not grows
        ]
        ends = iter(self._run(lasting)) if lasting else iter(())
        return self._logits(
            torch.cat(
                [
                    self._read_anew(ids, cache) if grows else next(ends)[:, -1]
                    for (cache, ids), grows in zip(texts, growing, strict=True)
                ]
            )
        )

    def _stretch(self, length: int) -> int:
        return self.encoding.stretch(max(length, self.read_as))

    def _piece(self, tokens: Tensor, cache: Cache, length: int) -> Piece:
        layout = self.model.lay_out(max(length, self.read_as), tokens.device)
        new = slice(cache.length, cache.length + tokens.shape[1])
        return Piece(tokens, cache, replace(layout, own=layout.positions[new]))

    def _read_anew(self, ids: Tensor, cache: Cache) -> Tensor:
        assert cache.tokens is not None
        tokens = torch.cat((cache.tokens, ids[:, None]), dim=1)
        cache.clear()
        return self._read_many(tokens, cache)

    def _read_many(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Texts from their beginning, [b, s]: the activations of their last tokens, [b, hidden]."""
        batch, length = tokens.shape
        whole = any(attention.reads_whole for attention in self.attentions)
        size = length if whole else max(1, CHUNK // batch)
        last = None
        for chunk in tokens.split(size, dim=1):
            last = self._run([self._piece(chunk, cache, length)])[0][:, -1]
        assert last is not None
        return last

    def _run(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """New tokens through all layers: activations [b, s, hidden] of each piece."""
        tokens = torch.cat([piece.tokens.flatten() for piece in pieces])
        at = torch.cat([piece.layout.own.repeat(len(piece.tokens)) for piece in pieces])
        x = self.model.embed(tokens[None], Layout(at, at, split=False))
        for layer, block in enumerate(self.blocks):
            x = x + self._attend(layer, block, x, pieces)
            x = x + block.mlp(block.mlp_norm(x, False), False)
        for piece in pieces:
            piece.cache.add(piece.tokens, self._stretch(len(piece.layout.positions)))
        parts = x[0].split([piece.tokens.numel() for piece in pieces])
        return [part.unflatten(0, piece.tokens.shape) for part, piece in zip(parts, pieces, strict=True)]

    def _attend(self, layer: int, block: Block, x: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """What attention adds to the activations [1, rows, hidden] of all pieces."""
        attention = block.attention
        sizes = [piece.tokens.numel() for piece in pieces]
        projected = (
            each[0].split(sizes, dim=1) for each in attention.project_heads(block.attention_norm(x, False), False)
        )
        outs = []
        for piece, *part in zip(pieces, *projected, strict=True):
            q, k, v = (each.unflatten(1, piece.tokens.shape).transpose(0, 1) for each in part)  # [b, own heads, s, d]
            if isinstance(self.encoding, RotaryEncoding):
                q, k = (rotate(self.encoding, each, piece.layout) for each in (q, k))
            out = self.attentions[layer](q, k, v, piece.cache.layers[layer], piece.layout.positions[: piece.end])
            outs.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
        return attention.output(torch.cat(outs)[None], False)

    def _logits(self, x: Tensor) -> Tensor:
        """Activations [b, hidden] -> logits [b, vocabulary], the whole of it on every rank, float32 at least."""
        assert self.model.norm is not None
        hidden = self.model.norm(x, False)
        logits = at_least_float32(functional.linear(hidden, self.model.output_weight()))
        return self.model.sharding.tp.all_gather(logits, -1)
