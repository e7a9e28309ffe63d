"""The backend: from a request to the kernels' tables, or to FIRE's lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.cuts import FEWEST_QUERIES
from megadape.attention.mixer import VARIANTS, DapeMixer
from megadape.attention.native.function import Pieces, Tables, native_attention, refusal
from megadape.attention.native.library import Library, Missing, load
from megadape.attention.native.pieces import fire_pieces
from megadape.attention.request import Request
from megadape.positions import DistanceBias
from megadape.positions.fire import Fire


@dataclass(frozen=True)
class Native:
    """Biases that depend on the distance alone, and FIRE, with or without DAPE, on a CPU.

    Args:
        find: gives the kernels, or the reason why there are none.
    """

    find: Callable[[], Library | Missing] = load
    name: str = "native"

    def refuses(self, request: Request) -> str | None:
        """As in ``Backend``."""
        library = self.find()
        if isinstance(library, Missing):
            return f"has no kernels ({library.reason})"
        return _refuses_call(request) or refusal(
            heads=request.q.shape[1],
            head_dim=request.q.shape[3],
            hidden=0 if request.mixer is None else request.mixer.hidden,
            dtype=request.dtype,
            device=request.device,
        )

    def __call__(self, request: Request) -> Tensor:
        """As in ``Backend``."""
        library = self.find()
        assert isinstance(library, Library), "asked before"
        with torch.autocast(request.device.type, enabled=False):
            added = make_pieces(request) if isinstance(request.bias, Fire) else make_tables(request)
            return native_attention(
                library, request.q, request.k, request.v, added, causal=request.causal, scale=request.scale
            )


def make_pieces(request: Request) -> Pieces:
    """What FIRE and mixer add, line by line; differentiable."""
    assert isinstance(request.bias, Fire), "asked before"
    assert request.mixer is None or isinstance(request.mixer, DapeMixer), "asked before"
    keys = request.k.shape[2]
    return fire_pieces(request.bias, request.mixer, request.query_positions, keys, causal=request.causal)


def make_tables(request: Request) -> Tables:
    """What bias and mixer add at every offset that the call has; differentiable."""
    queries, keys = request.q.shape[2], request.k.shape[2]
    first = 0 if request.causal else 1 - queries
    count, bias = max(0, keys - first), None
    if request.bias is not None:
        assert isinstance(request.bias, DistanceBias), "asked before"
        bias = request.bias.at(torch.arange(first, first + count, device=request.device)).float()
    mixer = request.mixer
    if mixer is None:
        return Tables(torch.zeros(request.q.shape[1], count) if bias is None else bias, first)
    assert isinstance(mixer, DapeMixer), "asked before"
    if bias is not None and not VARIANTS[mixer.variant].reads_scores:
        return Tables(bias + mixer.correction(bias[None, :, None], bias[:, None])[0, :, 0], first)
    u, c = mixer.split_bias(bias, count)
    return Tables(c, first, mixer.w1[:, : mixer.num_heads], mixer.w2, u.T)


def _refuses_call(request: Request) -> str | None:
    """What the kernels' interface has no place for."""
    if request.dropout:
        return "drops no attention weights"
    if request.mixer is not None and not isinstance(request.mixer, DapeMixer):
        return "mixes at one pair at a time"
    if request.bias is not None and not isinstance(request.bias, DistanceBias | Fire):
        return "reads biases of the distance alone, and FIRE"
    if isinstance(request.bias, Fire) and request.mixer and not VARIANTS[request.mixer.variant].reads_scores:
        return "mixes FIRE only where the mixer reads scores"
    # queries lie along the vector lanes: with fewer, as in decoding, most lanes would idle and torch is faster
    if 0 < request.q.shape[2] < FEWEST_QUERIES:
        return f"takes {FEWEST_QUERIES} queries or more at a time"
    if request.q.shape[2] and request.lead != request.k.shape[2] - request.q.shape[2]:
        return "takes consecutive positions, the queries being the last of the keys"
    if request.v.shape[3] != request.q.shape[3]:
        return "takes values as wide as queries"
    if request.mixer is not None and request.mixer.w1.dtype != torch.float32:
        return f"takes mixers in float32, not in {str(request.mixer.w1.dtype).removeprefix('torch.')}"
    if request.bias is not None and request.bias.dtype != torch.float32:
        return f"takes biases in float32, not in {str(request.bias.dtype).removeprefix('torch.')}"
    return None
