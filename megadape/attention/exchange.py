"""Attention over the ranks that share a layer or a sequence: who has which heads and rows, and what travels.

    Local        one rank, or heads that do not mix: every rank its own heads, nothing travels
    RowExchange  DAPE under tensor parallelism: queries go from heads to rows by all-to-all, keys and values are
                 gathered, each rank mixes all heads for its rows with the ordinary kernels, the output goes back
    HeadMixing   the same function, literally: scores stay with their head, the mixer's hidden layer is summed over
                 the ranks at every pair; memory and traffic grow with the square of the length
    RowContext   every rank has all heads of its own rows (evaluation): keys and values are gathered

For s tokens, h heads of width d, T ranks, f = (T-1)/T, a rank receives f s h d (2 + 2/T) numbers forward in
RowExchange and 2 f D s^2 in HeadMixing (and the few of encoding and mixer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megadape.attention.call import Attention, Term, score_term
from megadape.attention.dispatch import AUTO
from megadape.attention.gathering import all_heads, own_heads
from megadape.attention.mixer import DapeMixer
from megadape.attention.reference import Reference
from megadape.attention.row_exchange import attend_rows, exchange_rows, gather_rows
from megadape.errors import AttentionError
from megadape.parallel.deal import RowDeal
from megadape.parallel.group import Group
from megadape.parallel.random import own_stream
from megadape.parallel.sharding import Sharding


class Exchange(Protocol):
    """A way to attend over ranks; all of one group compute the same function."""

    def __call__(self, call: Attention) -> Tensor:
        """[b, own heads, own rows, d]."""


@dataclass(frozen=True)
class Local:
    """Every rank its own heads."""

    tp: Group

    def __call__(self, call: Attention) -> Tensor:
        """As in ``Exchange``."""
        assert call.mixer is None or self.tp.size == 1, "mixing needs every head"
        encoding = call.encoding if self.tp.size == 1 else own_heads(call.encoding, self.tp)
        rows = slice(0, call.q.shape[2])
        with own_stream(self.tp, call.q.device, active=call.dropout > 0):
            return call.run(call.q, call.k, call.v, rows, score_term(encoding), call.mixer, call.backend)


@dataclass(frozen=True)
class HeadMixing:
    """Scores stay with their head, the hidden layer is summed over the ranks."""

    tp: Group

    def __call__(self, call: Attention) -> Tensor:
        """As in ``Exchange``."""
        if call.backend not in (AUTO, Reference.name):
            raise AttentionError(
                f"parallel.mixing: heads computes by the reference backend alone, not by {call.backend!r}: leave "
                "model.attention_backend at auto, or use parallel.mixing: rows"
            )
        assert call.mixer is not None
        term, mixer = score_term(own_heads(call.encoding, self.tp)), call.mixer.summing(self.tp)
        rows = slice(0, call.q.shape[2])
        with own_stream(self.tp, call.q.device, active=call.dropout > 0):
            return call.run(call.q, call.k, call.v, rows, term, mixer, Reference.name)


@dataclass(frozen=True)
class RowExchange:
    """Each rank all heads for its rows; what the late rows need travels while the early ones are computed, and what
    came of these while the late ones are."""

    tp: Group

    def __call__(self, call: Attention) -> Tensor:
        """As in ``Exchange``."""

        def gather_terms() -> tuple[Term | None, DapeMixer | None]:
            adds = score_term(call.encoding) is not None
            encoding, mixer = all_heads(call.encoding if adds else None, call.mixer, self.tp)
            return score_term(encoding), mixer

        return exchange_rows(call, self.tp, gather_terms)[0]


@dataclass(frozen=True)
class RowContext:
    """Each rank all heads of its own rows; no gradients."""

    context: Group

    def __call__(self, call: Attention) -> Tensor:
        """As in ``Exchange``."""
        deal = RowDeal(call.positions.shape[-1], self.context.size)
        k, v = gather_rows(torch.stack((call.k, call.v)), deal, self.context, axis=3)
        return attend_rows(call, call.q, k, v, deal, self.context.rank, score_term(call.encoding), call.mixer)


MIXING: dict[str, Callable[[Group], Exchange]] = {"rows": RowExchange, "heads": HeadMixing}
"""``parallel.mixing`` -> how heads that mix meet."""


def choose_exchange(sharding: Sharding, *, mixes: bool) -> Exchange:
    """The way for a layer that mixes heads or does not."""
    if sharding.context.size > 1:
        assert sharding.tp.size == 1, "sequences are shared among ranks that hold the whole model"
        return RowContext(sharding.context)
    if mixes and sharding.tp.size > 1:
        return MIXING[sharding.mixing](sharding.tp)
    return Local(sharding.tp)
