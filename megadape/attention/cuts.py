"""Packed sequences cut at the ends of documents, so that ordinary attention serves each document by itself.

Documents of about one length share a call. Where later tokens are not seen, shorter ones are filled up with zeros at
their end: that changes nothing before it. A document is filled up only as far as that costs less than a call of its
own, so that all together never cost more than a call each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from megadape.attention.documents import Documents, Lengths

CALL_PAIRS = 1 << 10
"""Pairs of a query and a key that take about as long as a call's fixed costs."""

FEWEST_QUERIES = 4
"""Queries that a filled-up document has at least: kernels whose vector lanes hold queries take no fewer."""


@dataclass(frozen=True)
class Span:
    """One document of one sequence, as a call sees it: its queries are the last of its keys."""

    sequence: int
    document: int
    first_query: int
    queries: int
    first_key: int
    keys: int

    @property
    def lead(self) -> int:
        """Keys before the first query."""
        return self.keys - self.queries


@dataclass(frozen=True)
class Cut:
    """Documents that share a call."""

    spans: tuple[Span, ...]

    queries: int
    """Rows that each has in the call, filled up."""

    keys: int


def plan_cuts(documents: Documents, queries: int, *, fill: bool, mix_places: bool = True) -> tuple[Cut, ...]:
    """Every document that has queries, in as few calls as pay.

    Args:
        documents: of the keys.
        queries: how many, the last ones.
        fill: whether documents may be filled up at their end.
        mix_places: whether documents at different places of their sequences may share a call.
    """
    groups: dict[tuple[int, ...], list[Span]] = {}
    for span in _spans(documents, queries):
        alike: tuple[int, ...] = (span.lead,) if fill else (span.lead, span.queries)
        groups.setdefault(alike if mix_places else (*alike, span.first_query, span.first_key), []).append(span)
    return tuple(cut for group in groups.values() for cut in _share_calls(group, FEWEST_QUERIES if fill else 0))


def take(x: Tensor, lengths: Lengths, cuts: Sequence[Cut], *, queries: bool) -> list[Tensor]:
    """The rows of each cut: [b, h, s, d] -> [documents, h, rows, d] each.

    Args:
        x: queries, or keys or values.
        lengths: how many of the rows of x each document has.
        cuts: what to take.
        queries: whether x are queries.
    """
    # split and stack have backward passes that touch each row once
    pieces = [row.split(sizes, dim=1) for row, sizes in zip(x.unbind(0), lengths, strict=True)]
    return [
        torch.stack([_fill(pieces[s.sequence][s.document], cut.queries if queries else cut.keys) for s in cut.spans])
        for cut in cuts
    ]


def join(parts: Sequence[Tensor], cuts: Sequence[Cut], batch: int) -> Tensor:
    """The outputs of all cuts, [documents, h, rows, d] each, in their places: [b, h, q, d]."""
    rows: list[dict[int, Tensor]] = [{} for _ in range(batch)]
    for part, cut in zip(parts, cuts, strict=True):
        for piece, span in zip(part.unbind(0), cut.spans, strict=True):
            rows[span.sequence][span.document] = piece[:, : span.queries] if span.queries < cut.queries else piece
    return torch.stack([torch.cat([row[document] for document in sorted(row)], dim=1) for row in rows])


def _spans(documents: Documents, queries: int) -> Iterator[Span]:
    for sequence, (keys, asking) in enumerate(zip(documents.lengths, documents.last(queries), strict=True)):
        first_keys, first_queries = (accumulate(sizes, initial=0) for sizes in (keys, asking))
        each = zip(first_queries, asking, first_keys, keys, strict=False)
        yield from (Span(sequence, document, *sizes) for document, sizes in enumerate(each) if sizes[1])


def _share_calls(group: Sequence[Span], fewest: int) -> Iterator[Cut]:
    """Documents with one lead, the longest first, each call taking those that it is cheaper to fill up."""
    shared: list[Span] = []
    for span in sorted(group, key=lambda each: each.queries, reverse=True):
        if shared and _pairs(shared[0]) - _pairs(span) > CALL_PAIRS:
            yield _as_cut(shared, fewest)
            shared = []
        shared.append(span)
    yield _as_cut(shared, fewest)


def _as_cut(spans: Sequence[Span], fewest: int) -> Cut:
    rows = max(spans[0].queries, fewest)
    return Cut(tuple(spans), rows, rows + spans[0].lead)


def _pairs(span: Span) -> int:
    """Below the diagonal."""
    return span.queries * span.lead + span.queries * (span.queries + 1) // 2


def _fill(piece: Tensor, rows: int) -> Tensor:
    """[h, n, d] -> [h, rows, d]."""
    missing = rows - piece.shape[1]
    return functional.pad(piece, (0, 0, 0, missing)) if missing else piece
