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

from megadape.attention.dispatch import AUTO, dape_attention
from megadape.attention.documents import Documents
from megadape.attention.gathering import all_heads, own_heads
from megadape.attention.mixer import DapeMixer
from megadape.attention.reference import Reference
from megadape.errors import AttentionError
from megadape.parallel.deal import RowDeal
from megadape.parallel.group import Group
from megadape.parallel.overlap import Journey, start_exchange, start_gather
from megadape.parallel.random import own_stream
from megadape.parallel.sharding import Sharding
from megadape.positions import ContextualBias, PositionEncoding, ScoreBias

Term = ScoreBias | ContextualBias


@dataclass(frozen=True)
class Attention:
    """One self-attention call of a layer: q, k, v [b, own heads, own rows, d]."""

    q: Tensor
    k: Tensor
    v: Tensor
    encoding: PositionEncoding
    mixer: DapeMixer | None
    positions: Tensor
    """[s], of the whole sequence; with documents [b, s], and not read here."""
    counted: bool = False
    """Whether they are 0, 1, 2, ..."""
    backend: str = AUTO
    dropout: float = 0.0
    documents: Documents | None = None
    """Of the whole sequence, to be kept apart."""

    def run(
        self, q: Tensor, k: Tensor, v: Tensor, rows: slice, term: Term | None, mixer: DapeMixer | None, backend: str
    ) -> Tensor:
        """Attend with some rows of the sequence to all keys that they may see."""
        given, causal = self.documents is None and not self.counted, self.encoding.geometry.causal
        counted = rows.start if self.documents is None else None
        keys = rows.stop if causal else k.shape[2]
        return dape_attention(
            q,
            k[:, :, :keys],
            v[:, :, :keys],
            bias=term,
            mixer=mixer,
            causal=causal,
            backend=backend,
            dropout=self.dropout,
            query_positions=self.positions[rows] if given else counted,
            key_positions=self.positions[:keys] if given else None,
            documents=self.documents.first(keys) if self.documents is not None else None,
        )


class Exchange(Protocol):
    """A way to attend over ranks; all of one group compute the same function."""

    def __call__(self, call: Attention) -> Tensor:
        """[b, own heads, own rows, d]."""


def score_term(encoding: PositionEncoding | None) -> Term | None:
    """The encoding, if it is one that adds to attention scores."""
    return encoding if isinstance(encoding, ScoreBias | ContextualBias) else None


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


def exchange_rows(
    call: Attention, tp: Group, find_terms: Callable[[], tuple[Term | None, DapeMixer | None]]
) -> tuple[Tensor, Tensor]:
    """All heads of a rank's rows, from its own heads of all rows, and back.

    Args:
        call: of the own heads.
        tp: the ranks.
        find_terms: encoding and mixer over all heads; called while queries, keys and values travel.

    Returns:
        [b, own heads, s, d], and the keys of all heads [b, h, s, d].
    """
    length = call.q.shape[2]
    deal = RowDeal(length, tp.size)
    # keys and values in one collective; those that the early rows of a causal model see come first
    seen = deal.middle if call.encoding.geometry.causal else length
    first, rest = torch.stack((call.k, call.v)).split([seen, length - seen], dim=3)
    first_keys, queries, rest_keys = (
        start_gather(tp, first, 2),
        start_heads_to_rows(call.q, deal, tp),
        start_gather(tp, rest, 2),
    )
    term, mixer = find_terms()
    (keys,), q = first_keys.wait(), torch.cat(queries.wait(), dim=1)
    early, late = deal.chunks(tp.rank)
    q_early, q_late = q.split([early.stop - early.start, late.stop - late.start], dim=2)
    with own_stream(tp, q.device, active=call.dropout > 0):
        out = call.run(q_early, keys[0], keys[1], early, term, mixer, call.backend)
        early_out = start_rows_to_heads(out, deal, tp, late=False)
        keys = torch.cat((keys, *rest_keys.wait()), dim=3)
        out = call.run(q_late, keys[0], keys[1], late, term, mixer, call.backend)
    late_out = start_rows_to_heads(out, deal, tp, late=True)
    return torch.cat([*early_out.wait(), *late_out.wait()[::-1]], dim=2), keys[0]


def attend_rows(
    call: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    deal: RowDeal,
    rank: int,
    term: Term | None,
    mixer: DapeMixer | None,
) -> Tensor:
    """All heads of a rank's rows: q [b, h, own rows, d], k and v [b, h, s, d] -> [b, h, own rows, d]."""
    chunks = deal.chunks(rank)
    queries = q.split([chunk.stop - chunk.start for chunk in chunks], dim=2)
    # each run of rows by itself: consecutive positions at the end of their keys, as the kernels like them
    outputs = [
        call.run(part, k, v, rows, term, mixer, call.backend) for part, rows in zip(queries, chunks, strict=True)
    ]
    return torch.cat(outputs, dim=2)


def start_heads_to_rows(x: Tensor, deal: RowDeal, group: Group) -> Journey:
    """[b, own heads, s, d] -> every rank's heads of the own rows: [b, heads, own rows, d] each."""
    batch, heads, _, width = x.shape
    parts = [deal.take(x, rank, axis=2) for rank in range(group.size)]
    return start_exchange(group, parts, [(batch, heads, deal.count(group.rank), width)] * group.size)


def start_rows_to_heads(x: Tensor, deal: RowDeal, group: Group, *, late: bool) -> Journey:
    """[b, h, own early or late rows, d] -> every rank's such rows of the own heads: [b, own heads, rows, d] each."""
    batch, heads, _, width = x.shape
    runs = [deal.chunks(rank)[late] for rank in range(group.size)]
    shapes = [(batch, heads // group.size, run.stop - run.start, width) for run in runs]
    return start_exchange(group, x.chunk(group.size, dim=1), shapes)


def gather_rows(x: Tensor, deal: RowDeal, group: Group, axis: int) -> Tensor:
    """Every rank's rows, in the order of the sequence; no gradients."""
    longest = max(deal.count(rank) for rank in range(group.size))
    missing = longest - x.shape[axis]
    if missing:  # shares may differ by a row or two
        x = torch.cat([x, x.new_zeros(*x.shape[:axis], missing, *x.shape[axis + 1 :])], dim=axis)
    parts = group.all_gather(x, axis).split(longest, dim=axis)
    own = [part.narrow(axis, 0, deal.count(rank)) for rank, part in enumerate(parts)]
    return deal.restore(own, axis)


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
