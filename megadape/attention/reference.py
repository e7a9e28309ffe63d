"""The specification: attention with position bias and mixing, everything materialised."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from megadape.attention.mixer import DapeMixer
from megadape.attention.request import Bias, Request, make_request
from megadape.positions import ContextualBias, ScoreBias


class Logits(NamedTuple):
    """What goes into the softmax, and what it is made of."""

    scores: Tensor
    """[b, h, q, k], scaled q k^T."""

    bias: Tensor | None
    """[h, q, k] or [b, h, q, k]; None where the encoding adds nothing to scores."""

    logits: Tensor
    """[b, h, q, k], before the mask."""


class Reference:
    """softmax(mask(A)) v, with A = S + B, or the mixer's equation."""

    name = "reference"

    def refuses(self, request: Request) -> str | None:
        """Nothing."""
        return None

    def __call__(self, request: Request) -> Tensor:
        """As in ``Backend``. The mask comes after the mixer; a query that may see no key gives zeros."""
        logits = make_logits(request).logits
        visible = request.visible()
        if visible is None:
            weights = logits.softmax(-1)
        else:
            weights = logits.masked_fill(~visible, float("-inf")).softmax(-1).masked_fill(~visible, 0.0)
        weights = functional.dropout(weights, request.dropout)
        return weights.to(request.v.dtype) @ request.v


def make_logits(request: Request) -> Logits:
    """Scores, bias and logits of a call."""
    scores = ((request.q * request.scale) @ request.k.transpose(-1, -2)).to(request.score_dtype)
    bias = make_bias(request, scores)
    if request.mixer is not None:
        return Logits(scores, bias, request.mixer(scores, bias, request.visible()))
    return Logits(scores, bias, scores if bias is None else scores + bias)


def make_bias(request: Request, scores: Tensor) -> Tensor | None:
    """The position bias of a call, whichever form it was given in, in the dtype of the scores."""
    positions = request.query_positions, request.key_positions
    match request.bias:
        case None:
            return None
        case ScoreBias():
            return request.bias.bias(*positions).to(scores)
        case ContextualBias():
            return request.bias.contextual_bias(request.q, request.k, scores, *positions, request.scale).to(scores)
        case Tensor():
            return request.bias.to(scores)


def explain(
    q: Tensor,
    k: Tensor,
    *,
    bias: Bias | None = None,
    mixer: DapeMixer | None = None,
    causal: bool = True,
    scale: float | None = None,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
) -> Logits:
    """What ``dape_attention`` would put into the softmax, for figures: (scores, bias, logits), not masked.

    What the mixer adds is ``mixer.correction(scores, bias)``. Arguments and errors as in ``dape_attention``.
    """
    return make_logits(
        make_request(
            q,
            k,
            k,
            bias=bias,
            mixer=mixer,
            causal=causal,
            scale=scale,
            query_positions=query_positions,
            key_positions=key_positions,
        )
    )
