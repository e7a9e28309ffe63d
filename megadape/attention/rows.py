"""Query rows in blocks, when no gradient is needed: memory grows with the length and not with its square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megadape.attention.request import Backend, Request

ELEMENT_BUDGET = 1 << 24
"""Numbers that one block may hold at a time: 64 MiB in float32; larger blocks are slower, too."""


@dataclass(frozen=True)
class Rows:
    """Hands each block to the first of the inner backends that can do it."""

    inner: Sequence[Backend]
    budget: int = ELEMENT_BUDGET
    name: str = "rows"

    def refuses(self, request: Request) -> str | None:
        """Gradients: the backward pass would need all blocks at once."""
        return (
            "keeps nothing for a backward pass (use torch.no_grad() where none is wanted)"
            if request.needs_grad
            else None
        )

    def __call__(self, request: Request) -> Tensor:
        """As in ``Backend``."""
        attend = next(backend for backend in self.inner if backend.refuses(request) is None)
        queries, rows = request.q.shape[2], self.rows_per_block(request)
        if rows >= queries:
            return attend(request)
        # the longest rows first: what they free serves the shorter ones; the other way round the heap only grows
        firsts = reversed(range(0, queries, rows))
        blocks = [attend(take_rows(request, first, min(first + rows, queries))) for first in firsts]
        return torch.cat(blocks[::-1], dim=2)

    def rows_per_block(self, request: Request) -> int:
        """Query rows whose scores, bias, logits, weights and hidden layer fit the budget; one at least."""
        batch, heads, queries, _ = request.q.shape
        if request.bias is None and request.mixer is None:
            return queries  # fused attention materialises no scores
        hidden = request.mixer.hidden if request.mixer is not None else 0
        per_row = batch * request.k.shape[2] * (4 * heads + 2 * hidden)
        return max(1, self.budget // max(1, per_row))


def take_rows(request: Request, first: int, end: int) -> Request:
    """The same call for queries first .. end - 1; where causal, keys end with the last that any of them may see."""
    query_positions = request.query_positions[first:end]
    keys, at_first = request.k.shape[2], request.first
    if at_first is not None:
        at_first += first
    if request.causal and at_first is not None:
        keys = max(0, min(keys, at_first + end - first))
    elif request.causal:
        seen = (request.key_positions <= query_positions.max()).nonzero()
        keys = int(seen[-1]) + 1 if len(seen) else 0
    bias = request.bias[:, first:end, :keys] if isinstance(request.bias, Tensor) else request.bias
    return replace(
        request,
        q=request.q[:, :, first:end],
        k=request.k[:, :, :keys],
        v=request.v[:, :, :keys],
        bias=bias,
        query_positions=query_positions,
        key_positions=request.key_positions[:keys],
        first=at_first,
    )
