"""All heads of a rank's rows: what goes to them over the ranks, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from megadape.attention.call import Attention, Term
from megadape.attention.mixer import DapeMixer
from megadape.parallel.deal import RowDeal
from megadape.parallel.group import Group
from megadape.parallel.overlap import Journey, start_exchange, start_gather
from megadape.parallel.random import own_stream


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
