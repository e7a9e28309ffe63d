"""The specification: attention with position bias and mixing, everything materialised."""

from __future__ import annotations

from typing import NamedTuple

import torch
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
        visible, same = request.visible(), same_document(request)
        if same is not None:
            visible = same if visible is None else same & visible
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
        return Logits(scores, bias, request.mixer(scores, bias, request.visible(), outside(request)))
    return Logits(scores, bias, scores if bias is None else scores + bias)


def same_document(request: Request) -> Tensor | None:
    """Whether query and key are of one document: [b, 1, q, k] booleans; None where all are."""
    if request.documents is None:
        return None
    ids = request.documents.ids(request.device)
    return (ids[:, -request.q.shape[2] :, None] == ids[:, None])[:, None]


def outside(request: Request) -> Tensor | None:
    """Keys that do not exist for a query, being of another document: [b, 1, q, k] booleans; None where all do.

    Where attention is causal, later documents are to a query what its own later tokens are: there, but not visible.
    """
    same, visible = same_document(request), request.visible()
    if same is None:
        return None
    return ~same if visible is None else ~same & visible


def make_bias(request: Request, scores: Tensor) -> Tensor | None:
    """The position bias of a call, whichever form it was given in, in the dtype of the scores.

    Positions count from the start of each document. Only contextual encodings, which count along the keys and read
    nothing but offsets, are given those in the sequence.
    """
    positions = request.query_positions, request.key_positions
    match request.bias:
        case None:
            return None
        case ScoreBias() if request.documents is not None:
            own = request.documents.lay(lambda length: torch.arange(length, device=request.device))
            queries = own[:, -request.q.shape[2] :]
            return torch.stack([request.bias.bias(*each) for each in zip(queries, own, strict=True)]).to(scores)
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
    query_positions: Tensor | int | None = None,
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
