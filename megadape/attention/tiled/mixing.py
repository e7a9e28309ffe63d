"""From scores to logits and back, tile by tile.

A tile has the heads outermost, [h, b, r, n], so that the mix across heads is one matrix product, [D, h] @ [h, b r n],
without transposes. What the position bias adds enters as *terms*, [m, r, n] each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from megadape.attention.mixer import NEGATIVE_SLOPE, VARIANTS, DapeMixer
from megadape.attention.tiled.scratch import Scratch

Weights = tuple[Tensor, ...]
Terms = tuple[Tensor, ...]


class Mixing(ABC):
    """What is done to scores at every pair."""

    width: int
    """Numbers that are held at a pair beside its scores."""

    @abstractmethod
    def weights(self) -> Weights:
        """What ``forward`` needs beside scores and terms, in the dtype that is computed in."""

    @abstractmethod
    def terms(self, bias: Tensor | None, pairs: int) -> Terms:
        """Position bias [h, pairs] -> [m, pairs] each; differentiable."""

    @abstractmethod
    def forward(self, scores: Tensor, terms: Terms, weights: Weights, out: Tensor, scratch: Scratch) -> None:
        """Logits into ``out``, which may be ``scores`` itself; both [h, b, r, n]. What backward needs stays in scratch."""

    @abstractmethod
    def backward(
        self, scores: Tensor, dlogits: Tensor, weights: Weights, dweights: Weights, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """Right after ``forward`` of the same tile: overwrites scores with their gradient and adds to ``dweights``.

        Returns:
            Gradients of the terms, [m, b, r, n] each, not yet summed over the batch.
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
        """(c,) of [h, pairs], or nothing."""
        if bias is None:
            return ()
        if self.mixer is None:
            return (bias,)
        return ((bias + self.mixer.correction(bias[None, :, None], bias[:, None])[0, :, 0]).to(self.dtype),)

    def forward(self, scores: Tensor, terms: Terms, weights: Weights, out: Tensor, scratch: Scratch) -> None:
        """As in ``Mixing``."""
        if terms:
            torch.add(scores, terms[0][:, None], out=out)
        elif out is not scores:
            out.copy_(scores)

    def backward(
        self, scores: Tensor, dlogits: Tensor, weights: Weights, dweights: Weights, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """As in ``Mixing``."""
        scores.copy_(dlogits)
        return (dlogits,) if self.with_bias else ()


class AcrossHeads(Mixing):
    """DAPE: logits = S + c + W2 LeakyReLU(W1_S S + u), with u and c from the bias alone.

    Every variant has this form: u = W1_B B + b1 where the bias has columns of its own, W1 B + b1 where f reads S + B;
    c = B + b2, or b2 where the bias is not added.
    """

    def __init__(self, mixer: DapeMixer, dtype: torch.dtype) -> None:
        self.mixer, self.dtype, self.width = mixer, dtype, mixer.hidden

    def weights(self) -> Weights:
        """W1's columns of the scores [D, h], and W2 [h, D]."""
        w1 = self.mixer.w1[:, : self.mixer.num_heads]
        return w1.to(self.dtype).contiguous(), self.mixer.w2.to(self.dtype).contiguous()

    def terms(self, bias: Tensor | None, pairs: int) -> Terms:
        """u [D, pairs] and c [h, pairs]."""
        u, c = (vector.to(self.dtype)[:, None] for vector in (self.mixer.b1, self.mixer.b2))
        if bias is None:
            return u.expand(-1, pairs), c.expand(-1, pairs)
        # the last block of columns: that of the bias where it has one, else that of S + B
        w1 = self.mixer.w1[:, -self.mixer.num_heads :].to(self.dtype)
        added = bias + c if VARIANTS[self.mixer.variant].adds_bias else c.expand_as(bias)
        return torch.addmm(u, w1, bias), added

    def forward(self, scores: Tensor, terms: Terms, weights: Weights, out: Tensor, scratch: Scratch) -> None:
        """As in ``Mixing``; the hidden layer stays in scratch."""
        (w1, w2), (u, c) = weights, terms
        flat = scores.view(len(scores), -1)
        hidden = scratch.take("hidden", len(w1), flat.shape[1])
        torch.mm(w1, flat, out=hidden)
        hidden.view(len(w1), *scores.shape[1:]).add_(u[:, None])
        functional.leaky_relu_(hidden, NEGATIVE_SLOPE)
        torch.addmm(flat, w2, hidden, out=out.view(len(scores), -1))
        out.add_(c[:, None])

    def backward(
        self, scores: Tensor, dlogits: Tensor, weights: Weights, dweights: Weights, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """As in ``Mixing``."""
        (w1, w2), (dw1, dw2) = weights, dweights
        flat, upstream = scores.view(len(scores), -1), dlogits.view(len(scores), -1)
        hidden = scratch.take("hidden", len(w1), flat.shape[1])
        dhidden = scratch.take("dhidden", len(w1), flat.shape[1])
        dw2.addmm_(upstream, hidden.T)
        torch.mm(w2.T, upstream, out=dhidden)
        # the sign of LeakyReLU's result is that of its argument
        torch.ops.aten.leaky_relu_backward.grad_input(dhidden, hidden, NEGATIVE_SLOPE, True, grad_input=dhidden)
        dw1.addmm_(dhidden, flat.T)
        torch.addmm(upstream, w1.T, dhidden, out=flat)
        return dhidden.view(len(w1), *scores.shape[1:]), dlogits
