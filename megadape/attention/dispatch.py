"""One call for all attention: the request is checked, and given to a backend that can do it.

To add a backend: write its file, and enter it in ``BACKENDS`` before those that it should be preferred to. Torch's own
attention comes first where nothing is added to scores and nothing is mixed. The reference masks what lies outside of a
document; every other backend gets documents that are to be kept apart one by one.
"""

from __future__ import annotations

import logging
from functools import cache

from torch import Tensor

from megadape.attention.apart import Apart
from megadape.attention.documents import Documents
from megadape.attention.gpu import Triton
from megadape.attention.mixer import DapeMixer
from megadape.attention.native import Native
from megadape.attention.reference import Reference
from megadape.attention.request import Backend, Bias, Request, make_request
from megadape.attention.rows import Rows
from megadape.attention.sdpa import Sdpa
from megadape.attention.tiled import Tiled
from megadape.errors import AttentionError

AUTO = "auto"

_BY_PREFERENCE: tuple[Backend, ...] = (
    *(Apart(backend) for backend in (Native(), Triton(), Tiled(), Rows(inner=(Sdpa(), Reference())), Sdpa())),
    Reference(),
)

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _BY_PREFERENCE}
"""Name -> backend; ``auto`` takes the first that can do what is asked, but ``PLAIN`` for plain attention."""

PLAIN = Sdpa.name

logger = logging.getLogger(__name__)


def dape_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Bias | None = None,
    mixer: DapeMixer | None = None,
    causal: bool = True,
    scale: float | None = None,
    backend: str = AUTO,
    dropout: float = 0.0,
    query_positions: Tensor | int | None = None,
    key_positions: Tensor | None = None,
    documents: Documents | Tensor | None = None,
) -> Tensor:
    """Attention with a position bias and, on request, DAPE's mixing of heads (arXiv 2405.14722, eq. 3).

    Args:
        q: [b, h, q, d], turned already where the encoding is rotary.
        k: [b, h, k, d], likewise.
        v: [b, h, k, d'].
        bias: an encoding that adds to scores, or its value [h, q, k]; None where nothing is added.
        mixer: corrects scores and bias before the mask; None for plain attention.
        causal: whether a query sees only keys whose position is not after its own.
        scale: factor on q k^T; default ``1 / sqrt(d)``.
        backend: one of ``BACKENDS``, or ``auto``.
        dropout: probability of dropping an attention weight; the caller gives 0 in evaluation.
        query_positions: [q] integers, or the first of them where they count up by one; default those of the last q
            keys. Positions that are not given as tensors are never read back from a GPU.
        key_positions: [k] integers, increasing; default 0 .. k-1.
        documents: of the keys, to be kept apart, as ``Documents`` or as a number for each key, [b, k] integers that do
            not fall; the queries are the last keys. Each document is attended to as if it came alone: no other is seen,
            no mixer reaches into another, positions count from its own start and cannot be given. Default: one.

    Returns:
        [b, h, q, d'], of the dtype of v. Queries that may see no key give zeros.

    Raises:
        AttentionError: tensors, bias and mixer do not fit each other, or the backend cannot do what is asked.
    """
    request = make_request(
        q,
        k,
        v,
        bias=bias,
        mixer=mixer,
        causal=causal,
        scale=scale,
        dropout=dropout,
        query_positions=query_positions,
        key_positions=key_positions,
        documents=documents,
    )
    return choose(request, backend)(request)


def choose(request: Request, name: str = AUTO) -> Backend:
    """The backend for a request; ``AttentionError`` if the named one is unknown or cannot do it."""
    if name != AUTO and name not in BACKENDS:
        raise AttentionError(f"unknown attention backend {name!r}; known: {', '.join((AUTO, *BACKENDS))}")
    capable = (backend for backend in BACKENDS.values() if backend.refuses(request) is None)
    if name != AUTO:
        chosen = BACKENDS[name]
        reason = chosen.refuses(request)
        if reason is not None:
            able = ", ".join(backend.name for backend in capable)
            raise AttentionError(f"attention backend {name!r} cannot be used: it {reason}; those that can: {able}")
    elif request.plain:
        chosen = BACKENDS[PLAIN]
    else:
        chosen = next(capable)  # the reference refuses nothing
    _log_choice(chosen.name, name, str(request.device.type), request.mixer is not None)
    return chosen


@cache
def _log_choice(chosen: str, asked: str, device: str, mixing: bool) -> None:
    """Once for each combination."""
    logger.info(
        "attention backend %s (asked: %s, on %s, %s)", chosen, asked, device, "mixing" if mixing else "not mixing"
    )
