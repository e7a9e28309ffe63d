"""From scores to logits and back, tile by tile.

Scores are [h, b, r, n], heads outermost, and the hidden layer is [b r n, D], pairs outermost: so the mix across heads
is one matrix product each way, in the orientation that BLAS does best. What the position bias adds enters as *terms*,
[front, r, n, back]: [h, r, n, 1] beside scores, [1, r, n, D] beside the hidden layer.

Logits are those of the paper times log2(e), since 2^x is four times as fast as e^x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import e, log2

import torch
from torch import Tensor
from torch.nn import functional

from megadape.attention.mixer import NEGATIVE_SLOPE, DapeMixer
from megadape.attention.tiled.scratch import Scratch

LOG2_E = log2(e)
"""Logits here, over logits of the paper."""

Weights = tuple[Tensor, ...]
Terms = tuple[Tensor, ...]


@dataclass(frozen=True)
class Tile:
    """What is mixed at a time."""

    scores: Tensor
    """[h, b, r, n]."""

    terms: Terms
    """[front, r, n, back] each."""

    masked: Tensor | None
    """[r, m] booleans: which of the last m keys a row does not see; None where it sees all."""


class Mixing(ABC):
    """What is done to scores at every pair."""

    dtype: torch.dtype
    """Of scores, terms and weights."""

    width: int
    """Numbers that are held at a pair beside its scores."""

    @abstractmethod
    def weights(self) -> Weights:
        """What ``forward`` needs beside scores and terms, in the dtype that is computed in."""

    @abstractmethod
    def terms(self, bias: Tensor | None, pairs: int) -> Terms:
        """Position bias [h, pairs] -> [front, pairs, back] each; differentiable."""

    @abstractmethod
    def forward(self, tile: Tile, weights: Weights, out: Tensor, scratch: Scratch) -> None:
        """Logits [h, b, r, n] into ``out``, which may be the scores; what backward needs stays in scratch."""

    @abstractmethod
    def backward(
        self, tile: Tile, dlogits: Tensor, weights: Weights, dweights: Weights, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """Right after ``forward`` of the same tile: overwrites scores with their gradient and adds to ``dweights``.

        Returns:
            Gradients of the terms, [front, b, r, n, back] each, not yet summed over the batch.
        """


class Static(Mixing):
    """logits = S, or S + c with c = B, or c = B + f(B) where the mixer reads nothing but the bias."""

    width = 0

    def __init__(self, dtype: torch.dtype, mixer: DapeMixer | None = None, *, with_bias: bool) -> None:
        self.dtype, self.mixer, self.with_bias = dtype, mixer, with_bias

    def weights(self) -> Weights:
        """None."""
        return ()

    def terms(self, bias: Tensor | None, pairs: int) -> Terms:
        """(c,) of [h, pairs, 1], or nothing."""
        if bias is None:
            return ()
        if self.mixer is not None:
            bias = bias + self.mixer.correction(bias[None, :, None], bias[:, None])[0, :, 0].to(self.dtype)
        return ((bias * LOG2_E)[:, :, None],)

    def forward(self, tile: Tile, weights: Weights, out: Tensor, scratch: Scratch) -> None:
        """As in ``Mixing``."""
        if tile.terms:
            torch.add(tile.terms[0].squeeze(-1)[:, None], tile.scores, alpha=LOG2_E, out=out)
        else:
            torch.mul(tile.scores, LOG2_E, out=out)

    def backward(
        self, tile: Tile, dlogits: Tensor, weights: Weights, dweights: Weights, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """As in ``Mixing``."""
        torch.mul(dlogits, LOG2_E, out=tile.scores)
        return (dlogits[..., None],) if self.with_bias else ()


class AcrossHeads(Mixing):
    """DAPE: logits = S + c + W2 LeakyReLU(W1_S S + u), with u and c from the bias alone (``DapeMixer.split_bias``)."""

    def __init__(self, mixer: DapeMixer, dtype: torch.dtype) -> None:
        self.mixer, self.dtype, self.width = mixer, dtype, mixer.hidden

    def weights(self) -> Weights:
        """W1's columns of the scores, transposed, and W2: [h, D] both."""
        w1 = self.mixer.w1[:, : self.mixer.num_heads]
        return w1.T.to(self.dtype).contiguous(), self.mixer.w2.to(self.dtype) * LOG2_E

    def terms(self, bias: Tensor | None, pairs: int) -> Terms:
        """u [1, pairs, D] and c [h, pairs, 1]."""
        u, c = (term.to(self.dtype) for term in self.mixer.split_bias(bias, pairs))
        return u[None], (c * LOG2_E)[:, :, None]

    def forward(self, tile: Tile, weights: Weights, out: Tensor, scratch: Scratch) -> None:
        """As in ``Mixing``; the hidden layer stays in scratch."""
        scores, (w1, w2), (u, c) = tile.scores, weights, tile.terms
        flat = scores.view(len(scores), -1)
        hidden = scratch.take("hidden", flat.shape[1], self.width)
        torch.mm(flat.T, w1, out=hidden)
        hidden.view(*scores.shape[1:], self.width).add_(u[0])
        functional.leaky_relu_(hidden, NEGATIVE_SLOPE)
        torch.addmm(flat, w2, hidden.T, beta=LOG2_E, out=out.view(len(scores), -1))
        out.add_(c.squeeze(-1)[:, None])

    def backward(
        self, tile: Tile, dlogits: Tensor, weights: Weights, dweights: Weights, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """As in ``Mixing``."""
        scores, (w1, w2), (dw1, dw2) = tile.scores, weights, dweights
        flat, upstream = scores.view(len(scores), -1), dlogits.view(len(scores), -1)
        hidden, dhidden = (scratch.take(name, flat.shape[1], self.width) for name in ("hidden", "dhidden"))
        dw2.addmm_(upstream, hidden)
        torch.mm(upstream.T, w2, out=dhidden)
        # the sign of LeakyReLU's result is that of its argument
        torch.ops.aten.leaky_relu_backward.grad_input(dhidden, hidden, NEGATIVE_SLOPE, True, grad_input=dhidden)
        dw1.addmm_(flat, dhidden)
        torch.addmm(upstream, w1, dhidden.T, beta=LOG2_E, out=flat)
        return dhidden.view(1, *scores.shape[1:], self.width), dlogits[..., None]
