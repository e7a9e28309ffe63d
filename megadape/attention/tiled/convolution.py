"""DAPE V2 (``mixer_v2``) tile by tile.

Rows are whole in a tile, so a convolution along the keys needs nothing from other tiles. Each row is laid out with
2 * (k // 2) zeros after it, so that a shift by a tap never reaches the next row's numbers: over all rows at once, a
convolution is then k matrix products of shifted views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from megadape.attention.mixer import NEGATIVE_SLOPE
from megadape.attention.mixer_v2 import DapeV2Mixer
from megadape.attention.tiled.mixing import LOG2_E, Mixing, Terms, Tile, Weights
from megadape.attention.tiled.scratch import Scratch


class AlongKeys(Mixing):
    """logits = S + B + conv2(LeakyReLU(conv1([S ; B]))), the input of conv1 zero where a query does not see the key."""

    def __init__(self, mixer: DapeV2Mixer, dtype: torch.dtype, *, causal: bool) -> None:
        self.mixer, self.dtype = mixer, dtype
        self.width = max(mixer.w1.shape[:2])
        self.side = mixer.kernel // 2
        self.unseen = self.side if causal else 0  # columns after the last key where conv1 has values

    def weights(self) -> Weights:
        """W1 [k, 2h, D], b1 [D], W2 [k, h, D], b2 [h, 1]."""
        w1, b1, w2, b2 = (x.to(self.dtype) for x in (self.mixer.w1, self.mixer.b1, self.mixer.w2, self.mixer.b2))
        return w1.permute(2, 1, 0).contiguous(), b1, w2.permute(2, 0, 1).contiguous() * LOG2_E, b2[:, None] * LOG2_E

    def terms(self, bias: Tensor | None, pairs: int) -> Terms:
        """(B,) of [h, pairs, 1], or nothing."""
        return () if bias is None else (bias[:, :, None],)

    def forward(self, tile: Tile, weights: Weights, out: Tensor, scratch: Scratch) -> None:
        """As in ``Mixing``; inputs and hidden layer stay in scratch."""
        w1, b1, w2, b2 = weights
        span = self._span(tile.scores)
        inputs, hidden = self._fill_inputs(span, tile, scratch), scratch.take("hidden", span.total, w1.shape[2])
        torch.addmm(b1, inputs[:, span.shifted(0)].T, w1[0], out=hidden[span.middle])
        for tap in range(1, len(w1)):
            hidden[span.middle].addmm_(inputs[:, span.shifted(tap)].T, w1[tap])
        functional.leaky_relu_(hidden, NEGATIVE_SLOPE)
        self._clear(span, hidden)
        logits = scratch.take("mixed", len(b2), span.pairs)
        torch.addmm(b2, w2[0], hidden[span.shifted(0)].T, out=logits)
        for tap in range(1, len(w2)):
            logits.addmm_(w2[tap], hidden[span.shifted(tap)].T)
        cells = span.cells(logits).add_(tile.scores, alpha=LOG2_E)
        for term in tile.terms:
            cells.add_(term.squeeze(-1)[:, None], alpha=LOG2_E)
        out.copy_(cells)

    def backward(
        self, tile: Tile, dlogits: Tensor, weights: Weights, dweights: Weights, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """As in ``Mixing``."""
        (w1, _, w2, _), (dw1, db1, dw2, db2) = weights, dweights
        span, heads = self._span(tile.scores), len(dlogits)
        inputs = scratch.take("inputs", w1.shape[1], span.total)
        hidden = scratch.take("hidden", span.total, w1.shape[2])
        upstream = scratch.take("dmixed", heads, span.total).zero_()
        span.cells(upstream[:, span.middle]).copy_(dlogits)
        db2.add_(dlogits.sum((1, 2, 3))[:, None])
        dhidden = scratch.take("dhidden", *hidden.shape)
        torch.mm(upstream[:, span.shifted_back(0)].T, w2[0], out=dhidden[span.middle])
        for tap in range(len(w2)):
            dw2[tap].addmm_(upstream[:, span.middle], hidden[span.shifted(tap)])
            if tap:
                dhidden[span.middle].addmm_(upstream[:, span.shifted_back(tap)].T, w2[tap])
        torch.ops.aten.leaky_relu_backward.grad_input(dhidden, hidden, NEGATIVE_SLOPE, True, grad_input=dhidden)
        self._clear(span, dhidden)
        db1.add_(dhidden.sum(0))
        for tap in range(len(w1)):
            dw1[tap].addmm_(inputs[:, span.shifted(tap)], dhidden[span.middle])
        return self._into_inputs(span, tile, dlogits, w1, dhidden, scratch)

    def _into_inputs(
        self, span: _Span, tile: Tile, dlogits: Tensor, w1: Tensor, dhidden: Tensor, scratch: Scratch
    ) -> tuple[Tensor, ...]:
        """Gradients of scores, in their place, and of terms."""
        dinputs = scratch.take("dinputs", w1.shape[1], span.pairs)
        torch.mm(w1[0], dhidden[span.shifted_back(0)].T, out=dinputs)
        for tap in range(1, len(w1)):
            dinputs.addmm_(w1[tap], dhidden[span.shifted_back(tap)].T)
        cells = span.cells(dinputs)
        _clear_masked(tile, cells)
        torch.add(cells[: len(dlogits)], dlogits, alpha=LOG2_E, out=tile.scores)
        return (cells[len(dlogits) :].add_(dlogits, alpha=LOG2_E)[..., None],) if tile.terms else ()

    def _span(self, scores: Tensor) -> _Span:
        _, batch, rows, keys = scores.shape
        return _Span(batch, rows, keys, self.side)

    def _fill_inputs(self, span: _Span, tile: Tile, scratch: Scratch) -> Tensor:
        inputs = scratch.take("inputs", self.mixer.w1.shape[1], span.total).zero_()
        cells, heads = span.cells(inputs[:, span.middle]), len(tile.scores)
        cells[:heads] = tile.scores
        for term in tile.terms:
            cells[heads:] = term.squeeze(-1)[:, None]
        _clear_masked(tile, cells)
        return inputs

    def _clear(self, span: _Span, hidden: Tensor) -> None:
        """Zeros where the hidden layer is padding."""
        hidden[: self.side] = 0.0
        hidden[len(hidden) - self.side :] = 0.0
        rows = hidden[span.middle].unflatten(0, (-1, span.width))
        rows[:, span.keys + self.unseen :] = 0.0


def _clear_masked(tile: Tile, cells: Tensor) -> None:
    """Zeros at [c, b, r, n] where a row does not see the key."""
    if tile.masked is not None:
        cells[..., -tile.masked.shape[1] :].masked_fill_(tile.masked, 0.0)


@dataclass(frozen=True)
class _Span:
    """Rows of keys behind each other, ``2 * side`` places after each, and ``side`` places before and after all."""

    batch: int
    rows: int
    keys: int
    side: int

    @property
    def width(self) -> int:
        """Places of a row."""
        return self.keys + 2 * self.side

    @property
    def pairs(self) -> int:
        """Places of all rows."""
        return self.batch * self.rows * self.width

    @property
    def total(self) -> int:
        """Places in all."""
        return self.pairs + 2 * self.side

    @property
    def middle(self) -> slice:
        """The places of all rows."""
        return self.shifted(self.side)

    def shifted(self, tap: int) -> slice:
        """What a tap reads for the places of all rows."""
        return slice(tap, tap + self.pairs)

    def shifted_back(self, tap: int) -> slice:
        """Who reads the places of all rows with that tap."""
        return self.shifted(2 * self.side - tap)

    def cells(self, x: Tensor) -> Tensor:
        """[c, pairs] -> [c, batch, rows, keys], a view without the places between rows."""
        return x.unflatten(1, (self.batch, self.rows, self.width))[..., : self.keys]
