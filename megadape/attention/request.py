"""What is asked of an attention backend, and what a backend must be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from megadape.attention.cuts import Cut, plan_cuts, take
from megadape.attention.documents import Documents
from megadape.attention.mixer import DapeMixer
from megadape.errors import AttentionError
from megadape.positions import ContextualBias, ScoreBias

Bias = ScoreBias | ContextualBias | Tensor


@dataclass(frozen=True, eq=False)
class Request:
    """One attention call, checked and complete: everything that a backend may ask."""

    q: Tensor
    """[b, h, q, d]."""

    k: Tensor
    """[b, h, k, d]."""

    v: Tensor
    """[b, h, k, d']."""

    bias: Bias | None
    """A position encoding, or a tensor [h, q, k]."""

    mixer: DapeMixer | None
    causal: bool
    scale: float
    dropout: float

    query_positions: Tensor
    """[q] integers."""

    key_positions: Tensor
    """[k] integers."""

    first: int | None = None
    """The position of the first query, where positions are known to count up by one, those of keys from 0: a GPU need
    not be waited for to see it. None: look at them."""

    documents: Documents | None = None
    """Of the keys, to be kept apart; the queries are the last keys then, and positions count along the whole
    sequence. None where each sequence is one document."""

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.q.device

    @property
    def dtype(self) -> torch.dtype:
        """Of queries, keys and values."""
        return self.q.dtype

    @property
    def score_dtype(self) -> torch.dtype:
        """What scores and softmax are computed in: float32 at least."""
        return torch.promote_types(self.q.dtype, torch.float32)

    @property
    def plain(self) -> bool:
        """Whether nothing is added to scores and nothing is mixed."""
        return self.bias is None and self.mixer is None

    @cached_property
    def needs_grad(self) -> bool:
        """Whether anything that goes into the result wants a gradient."""
        if not torch.is_grad_enabled():
            return False
        modules = [part for part in (self.bias, self.mixer) if isinstance(part, torch.nn.Module)]
        tensors = [self.q, self.k, self.v, *(p for module in modules for p in module.parameters())]
        if isinstance(self.bias, Tensor):
            tensors.append(self.bias)
        return any(tensor.requires_grad for tensor in tensors)

    @cached_property
    def triangular(self) -> bool:
        """Whether, where causal, the last query sees all keys and each one before it one key less."""
        queries, keys = len(self.query_positions), len(self.key_positions)
        if self.first is not None:
            return 0 < queries <= keys and self.first == keys - queries
        if not 0 < queries <= keys or not torch.equal(self.query_positions, self.key_positions[keys - queries :]):
            return False
        return _rising(self.key_positions)

    @cached_property
    def lead(self) -> int | None:
        """How far the first query's position is past the first key's, where both count up by one; else None."""
        queries, keys = self.query_positions, self.key_positions
        if not len(queries) or not len(keys):
            return None
        if self.first is not None:
            return self.first
        if not (_consecutive(queries) and _consecutive(keys)):
            return None
        return int(queries[0] - keys[0])

    def visible(self) -> Tensor | None:
        """Which keys each query may see: [q, k] booleans; None where it is all of them."""
        return self.query_positions[:, None] >= self.key_positions[None, :] if self.causal else None

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Which documents share a call when each is to be attended to by itself."""
        assert self.documents is not None
        dense = isinstance(self.bias, Tensor)
        fill = self.causal and not dense
        return plan_cuts(self.documents, self.q.shape[2], fill=fill, mix_places=not dense)

    @cached_property
    def parts(self) -> tuple[Request, ...]:
        """The calls of ``cuts``, without documents: positions count from the start of each."""
        assert self.documents is not None
        cuts, tails = self.cuts, self.documents.last(self.q.shape[2])
        queries = take(self.q, tails, cuts, queries=True)
        keys, values = (take(x, self.documents.lengths, cuts, queries=False) for x in (self.k, self.v))
        return tuple(self._part(*each) for each in zip(cuts, queries, keys, values, strict=True))

    def _part(self, cut: Cut, q: Tensor, k: Tensor, v: Tensor) -> Request:
        bias, span = self.bias, cut.spans[0]
        if isinstance(bias, Tensor):  # all spans of the cut are at one place then
            rows = slice(span.first_query, span.first_query + span.queries)
            bias = bias[:, rows, span.first_key : span.first_key + span.keys]
        at_keys, first = torch.arange(cut.keys, device=self.device), cut.keys - cut.queries
        at_queries = at_keys[first:]
        return replace(
            self,
            q=q,
            k=k,
            v=v,
            bias=bias,
            query_positions=at_queries,
            key_positions=at_keys,
            first=first,
            documents=None,
        )


class Backend(Protocol):
    """A way to compute attention."""

    @property
    def name(self) -> str:
        """What users call it."""

    def refuses(self, request: Request) -> str | None:
        """Why it cannot do what is asked, as the end of "it ..."; None if it can."""

    def __call__(self, request: Request) -> Tensor:
        """[b, h, q, d'], of the dtype of v."""


def make_request(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias | None = None,
    mixer: DapeMixer | None = None,
    causal: bool = True,
    scale: float | None = None,
    dropout: float = 0.0,
    query_positions: Tensor | int | None = None,
    key_positions: Tensor | None = None,
    documents: Documents | Tensor | None = None,
) -> Request:
    """Check a call and fill in its defaults; arguments and errors as in ``dape_attention``."""
    _check_tensors(q, k, v)
    if documents is not None:
        documents = _read_documents(documents, q, k, given=query_positions is not None or key_positions is not None)
    if not 0 <= dropout < 1:
        raise AttentionError(f"dropout must be at least 0 and below 1, but is {dropout}")
    _check_mixer(q, mixer, bias)
    _check_bias(q, k, bias, causal)
    matters = causal or isinstance(bias, ScoreBias | ContextualBias)
    at_queries, at_keys, first = _place(query_positions, key_positions, q, k, matters=matters)
    if key_positions is not None and isinstance(bias, ContextualBias) and not _rising(at_keys):
        raise AttentionError(f"key_positions must increase where {type(bias).__name__} counts along the keys")
    scale = 1 / sqrt(q.shape[3]) if scale is None else scale
    return Request(q, k, v, bias, mixer, causal, scale, dropout, at_queries, at_keys, first, documents)


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if not q.dim() == k.dim() == v.dim() == 4:
        raise AttentionError(f"q, k and v must be [batch, heads, sequence, head_dim], but are {shapes}")
    if q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3] or k.shape[:3] != v.shape[:3]:
        raise AttentionError(f"q, k, v must agree in batch, heads and head_dim, and k, v in length, but are {shapes}")
    if q.shape[3] == 0:
        raise AttentionError(f"head_dim must be at least 1, but the shapes are {shapes}")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise AttentionError(f"q, k and v must be of one floating-point dtype, but are {q.dtype}, {k.dtype}, {v.dtype}")
    if not q.device == k.device == v.device:
        raise AttentionError(f"q, k and v must be on one device, but are on {q.device}, {k.device}, {v.device}")


def _check_mixer(q: Tensor, mixer: DapeMixer | None, bias: Bias | None) -> None:
    if mixer is None:
        return
    if mixer.num_heads != q.shape[1]:
        raise AttentionError(f"the mixer is built for {mixer.num_heads} heads, but q has {q.shape[1]}")
    mixer.check_bias(bias is not None)


def _check_bias(q: Tensor, k: Tensor, bias: Bias | None, causal: bool) -> None:
    if isinstance(bias, Tensor):
        wanted = [q.shape[1], q.shape[2], k.shape[2]]
        if list(bias.shape) != wanted or not bias.is_floating_point():
            raise AttentionError(f"a bias tensor must be floating-point {wanted}, not {bias.dtype} {list(bias.shape)}")
        return
    if bias is None:
        return
    if not isinstance(bias, ScoreBias | ContextualBias):
        raise AttentionError(f"bias must be a ScoreBias, a ContextualBias or a tensor, not {type(bias).__name__}")
    geometry = bias.geometry
    if geometry.heads.local != q.shape[1]:
        raise AttentionError(f"the position encoding is built for {geometry.heads.local} heads, but q has {q.shape[1]}")
    if bias.directed and geometry.causal != causal:
        raise AttentionError(
            f"the position encoding is built with causal={geometry.causal}, but attention is asked for causal={causal}"
        )


def _read_documents(documents: Documents | Tensor, q: Tensor, k: Tensor, *, given: bool) -> Documents | None:
    """The documents of a call; None where there is nothing to keep apart. ``given``: whether positions are."""
    if isinstance(documents, Tensor):
        documents = Documents.from_ids(documents)
    if given:
        raise AttentionError("positions count from the start of each document: give documents or positions, not both")
    batch, queries, keys = len(q), q.shape[2], k.shape[2]
    if queries > keys:
        raise AttentionError(f"queries of documents are the last keys, but there are {queries} queries and {keys} keys")
    if not documents.fits(batch, keys):
        found = f"{len(documents.lengths)} sequences of {sorted({sum(row) for row in documents.lengths})} tokens"
        raise AttentionError(f"documents must be those of {batch} sequences of {keys} keys, but are of {found}")
    return None if documents.single or not queries else documents


def _rising(positions: Tensor) -> bool:
    return bool((positions.diff() > 0).all())


def _consecutive(positions: Tensor) -> bool:
    return bool((positions.diff() == 1).all())


def _place(
    query_positions: Tensor | int | None, key_positions: Tensor | None, q: Tensor, k: Tensor, *, matters: bool
) -> tuple[Tensor, Tensor, int | None]:
    """Positions of queries and of keys, and ``Request.first``. ``matters``: whether anything reads them."""
    queries, keys = q.shape[2], k.shape[2]
    at_keys = _read_positions("key_positions", key_positions, k)
    if isinstance(query_positions, Tensor):
        return _read_positions("query_positions", query_positions, q), at_keys, None
    first = max(0, keys - queries) if query_positions is None else query_positions
    if query_positions is None and queries > keys and matters:
        raise AttentionError(f"{queries} queries cannot be the last of {keys} keys: give query_positions")
    if query_positions is None and queries <= keys:
        at_queries = at_keys[first:]
    else:
        at_queries = torch.arange(first, first + queries, device=q.device)
    return at_queries, at_keys, first if key_positions is None else None


def _read_positions(name: str, positions: Tensor | None, x: Tensor) -> Tensor:
    if positions is None:
        return torch.arange(x.shape[2], device=x.device)
    integers = not (positions.is_floating_point() or positions.is_complex() or positions.dtype == torch.bool)
    if positions.shape != x.shape[2:3] or not integers:
        raise AttentionError(
            f"{name} must be [{x.shape[2]}] integers, but is {positions.dtype} {list(positions.shape)}"
        )
    return positions.to(x.device, torch.int64)
