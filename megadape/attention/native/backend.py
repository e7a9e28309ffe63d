"""The backend: from a request to the kernels' tables, or to FIRE's lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.cuts import FEWEST_QUERIES
from megadape.attention.mixer import DapeMixer
from megadape.attention.native.function import Pieces, native_attention, refusal
from megadape.attention.native.library import Library, Missing, load
from megadape.attention.native.pieces import fire_pieces
from megadape.attention.request import Request
from megadape.attention.tables import make_tables, refuses_terms
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


def _refuses_call(request: Request) -> str | None:
    """What the kernels' interface has no place for."""
    # queries lie along the vector lanes: with fewer, as in decoding, most lanes would idle and torch is faster
    if 0 < request.q.shape[2] < FEWEST_QUERIES:
        return f"takes {FEWEST_QUERIES} queries or more at a time"
    if request.v.shape[3] != request.q.shape[3]:
        return "takes values as wide as queries"
    return refuses_terms(request)
