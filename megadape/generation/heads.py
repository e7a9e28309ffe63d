"""Attention of new tokens to all tokens so far, and how heads on different ranks meet there.

    OwnHeads       one rank, or heads that do not mix: every rank keeps and attends with its own heads
    GatheredHeads  DAPE under tensor parallelism: every rank keeps the keys of all heads and the values of its own

For one new token, n tokens so far, h heads of width d on T ranks, f = (T-1)/T, a rank that mixes could receive

    2 f D n    numbers a layer, if the hidden layer were summed at every pair (``parallel.mixing: heads``)
    f h n      if scores were gathered
    5 f h d    about, if the tokens so far were dealt to ranks: q, k, v, then partial outputs and sums
    2 f h d    if q and k are gathered: each rank then has all scores, mixes them, and goes on with its own heads

The last is the least, does not grow with the text, and suits mixers and encodings that look along the keys (DAPE V2,
CoPE), so it is what ``GatheredHeads`` does. Its price: every rank computes scores and mixing of all heads, and keeps
the keys of all heads, which makes its cache (T + 1) / 2 times a T-th of the whole. A prompt is read as in training, by
the row exchange, which gathers keys anyway.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from megadape.attention import DapeMixer, dape_attention
from megadape.attention.call import Attention, score_term
from megadape.attention.gathering import all_heads
from megadape.attention.row_exchange import exchange_rows
from megadape.generation.cache import LayerCache
from megadape.generation.rows import choose_row
from megadape.parallel.group import Group
from megadape.positions import PositionEncoding


class CachedAttention(Protocol):
    """Attention of one layer."""

    reads_whole: bool
    """Whether several tokens at once must be a text from its beginning."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, positions: Tensor) -> Tensor:
        """Keep keys and values, and attend.

        Args:
            q: [b, own heads, s, d], of the last s tokens of n, turned already where the encoding is rotary.
            k: likewise.
            v: likewise.
            cache: holds those of the tokens before.
            positions: [n].

        Returns:
            [b, own heads, s, d].
        """


class OwnHeads:
    """Every rank its own heads."""

    reads_whole = False

    def __init__(self, encoding: PositionEncoding, mixer: DapeMixer | None) -> None:
        self.term, self.mixer = score_term(encoding), mixer
        self.row = choose_row(self.term, mixer)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, positions: Tensor) -> Tensor:
        """As in ``CachedAttention``; several tokens at once go to the ordinary backends."""
        new = q.shape[2]
        keys, values = cache.write(k, v, len(positions) - new)
        if new == 1:
            return self.row(q, keys, positions).softmax(-1).to(v.dtype) @ values
        return dape_attention(
            q,
            keys,
            values,
            bias=self.term,
            mixer=self.mixer,
            query_positions=positions[-new:],
            key_positions=positions,
        )


class GatheredHeads:
    """Every rank the keys of all heads, the values of its own."""

    reads_whole = True

    def __init__(self, encoding: PositionEncoding, mixer: DapeMixer, tp: Group) -> None:
        self.own_encoding, self.own_mixer, self.tp = encoding, mixer, tp
        term = score_term(encoding)
        whole, gathered = all_heads(encoding if term is not None else None, mixer, tp)  # once: nothing learns here
        self.term, self.mixer = None if whole is None else score_term(whole), gathered
        self.row = choose_row(self.term, gathered)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, positions: Tensor) -> Tensor:
        """As in ``CachedAttention``."""
        new = q.shape[2]
        if new >= 2 * self.tp.size:  # two runs of rows a rank
            return self._read_text(q, k, v, cache, positions)
        q, k = self.tp.all_gather(torch.stack((q, k)), 2).unbind()
        keys, values = cache.write(k, v, len(positions) - new)
        logits = self.row(q, keys, positions).chunk(self.tp.size, dim=1)[self.tp.rank]
        return logits.softmax(-1).to(v.dtype) @ values

    def _read_text(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, positions: Tensor) -> Tensor:
        """The row exchange, keeping the keys that it gathers."""
        assert q.shape[2] == len(positions), "values of other heads are not kept"
        call = Attention(q, k, v, self.own_encoding, self.own_mixer, positions)
        out, keys = exchange_rows(call, self.tp, lambda: (self.term, self.mixer))
        cache.write(keys, v, 0)
        return out


def choose_attention(encoding: PositionEncoding, mixer: DapeMixer | None, tp: Group) -> CachedAttention:
    """The way for a layer that mixes heads or does not."""
    if mixer is None or tp.size == 1:
        return OwnHeads(encoding, mixer)
    return GatheredHeads(encoding, mixer, tp)
