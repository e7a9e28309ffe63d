"""Torch's fused attention, where no mixing is asked."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from megadape.attention.request import Request
from megadape.positions import ContextualBias, ScoreBias


class Sdpa:
    """``scaled_dot_product_attention``: without a mask where the shape says it, else with a dense one.

    Torch's CPU kernel makes zeros of a query that is NaN where there are fewer than 16 keys; the reference does not.
    """

    name = "sdpa"

    def refuses(self, request: Request) -> str | None:
        """Mixing, and biases that read scores."""
        if request.mixer is not None:
            return "does not mix heads"
        if isinstance(request.bias, ContextualBias):
            return "does not show its scores to the position encoding"
        return None

    def __call__(self, request: Request) -> Tensor:
        """As in ``Backend``."""
        queries, keys = request.q.shape[2], request.k.shape[2]
        triangular = request.bias is None and request.causal and request.triangular
        # torch aligns its causal mask at the first key, this house at the last
        is_causal = triangular and queries == keys
        mask = None if is_causal or (triangular and queries == 1) else make_mask(request)
        return functional.scaled_dot_product_attention(
            request.q,
            request.k,
            request.v,
            attn_mask=mask,
            dropout_p=request.dropout,
            is_causal=is_causal,
            scale=request.scale,
        )


def make_mask(request: Request) -> Tensor | None:
    """Bias and causal mask in one: [1, h, q, k] to be added, [q, k] booleans without a bias, None without either."""
    visible = request.visible()
    if request.bias is None:
        return visible
    assert not isinstance(request.bias, ContextualBias), "refused before"
    positions = request.query_positions, request.key_positions
    bias = request.bias.bias(*positions) if isinstance(request.bias, ScoreBias) else request.bias
    bias = bias.to(request.q)
    return (bias if visible is None else bias.masked_fill(~visible, float("-inf")))[None]
