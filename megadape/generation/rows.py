"""Attention logits of one new token: a row of n keys, linear in n, without the fixed costs of backends that cut long
texts into tiles."""

from __future__ import annotations

from math import sqrt
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from megadape.attention import VARIANTS, DapeMixer, explain
from megadape.attention.call import Term
from megadape.attention.mixer import NEGATIVE_SLOPE
from megadape.positions import DistanceBias

SMALLEST = 256
"""Distances that tables have at least."""


class Row(Protocol):
    """The last few tokens of some texts against all of their tokens."""

    def __call__(self, q: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
        """q [b, h, s, d] of the last s tokens, keys [b, h, n, d], positions [n] -> logits [b, h, s, n], masked."""


class AnyRow:
    """As the specification says it, of any encoding and mixer."""

    def __init__(self, term: Term | None, mixer: DapeMixer | None) -> None:
        self.term, self.mixer = term, mixer

    def __call__(self, q: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
        """As in ``Row``."""
        at = positions[-q.shape[2] :]
        found = explain(q, keys, bias=self.term, mixer=self.mixer, query_positions=at, key_positions=positions).logits
        return found if len(at) == 1 else found.masked_fill(at[:, None] < positions, float("-inf"))


class TabledRow:
    """What the distance alone decides is computed once for all tokens, texts and steps: S + c + W2 LeakyReLU(W1 S + u)
    with tables c and u over distances (``DapeMixer.split_bias``), or S + c without a mixer or one that reads no scores.
    """

    def __init__(self, bias: DistanceBias | None, mixer: DapeMixer | None) -> None:
        self._bias, self._mixer, self._any = bias, mixer, AnyRow(bias, mixer)
        self._reads_scores = mixer is not None and (bias is None or VARIANTS[mixer.variant].reads_scores)
        self._c: Tensor | None = None
        self._u: Tensor | None = None
        self._room = 0

    def __call__(self, q: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
        """As in ``Row``; positions are not read but by several rows, since they count up by one."""
        if q.shape[2] > 1:
            return self._any(q, keys, positions)
        count = keys.shape[2]
        if count > self._room:
            self._make_tables(count)
        scores = ((q / sqrt(q.shape[3])) @ keys.transpose(-1, -2))[:, :, 0]  # [b, h, n]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        last = slice(self._room - count, None)
        logits = scores if self._c is None else scores + self._c[:, last]
        if self._reads_scores:
            assert self._mixer is not None
            assert self._u is not None
            w1, w2 = (w.to(logits.dtype) for w in (self._mixer.w1[:, : self._mixer.num_heads], self._mixer.w2))
            hidden = functional.leaky_relu_((w1 @ scores.to(logits.dtype)).add_(self._u[:, last]), NEGATIVE_SLOPE)
            logits = logits + w2 @ hidden
        return logits[:, :, None]

    def _make_tables(self, count: int) -> None:
        """c [h, n] and u [D, n], largest distance first, so that a text's are the last of them."""
        self._room = max(SMALLEST, 1 << (count - 1).bit_length())
        if self._bias is not None:
            bias = self._bias.at(torch.arange(self._room - 1, -1, -1, device=self._bias.device))
            self._c = bias
            if self._mixer is not None and not self._reads_scores:
                self._c = bias + self._mixer.correction(bias[None, :, None], bias[:, None])[0, :, 0]
        if self._reads_scores:
            assert self._mixer is not None
            u, self._c = self._mixer.split_bias(None if self._bias is None else bias, self._room)
            self._u = u.T.contiguous()


def choose_row(term: Term | None, mixer: DapeMixer | None) -> Row:
    """The way for an encoding and a mixer; mixers that look along the keys, and whatever else extends DAPE, as the
    specification says it."""
    if (term is None or isinstance(term, DistanceBias)) and (mixer is None or type(mixer) is DapeMixer):
        return TabledRow(term, mixer)
    return AnyRow(term, mixer)
