"""Exact DAPE attention by the native kernels, as a differentiable function.

At one query i and key j, with S [h] the scaled scores of all heads::

    logits = [S +] c(i - j) + W2 LeakyReLU_0.01(W1 S + u(i - j))

``u`` [D, n] and ``c`` [h, n] are tables over the offset i - j. Every mixer over a bias B that depends on the offset
alone is of this form (arXiv 2405.14722, eq. 3): for [S; B], u = W1_B B + b1 and c = B + b2; for S + B, u = W1 B + b1;
without the residual, c = b2; a bias without mixing is c alone. A bias that also depends on the query's position is of
this form if it is piecewise linear in one number per pair, as FIRE is: ``Pieces``. What lies behind tables and pieces
gets its gradient through autograd.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megadape.attention.native.library import InstructionSet, Library
from megadape.attention.tables import Tables

MAX_HEADS = 32
MAX_HIDDEN = 64
HEAD_DIMS = range(32, 129, 16)
DTYPES = (torch.float32, torch.bfloat16)

SIZES = (
    *("batch", "heads", "queries", "keys", "head_dim", "hidden"),
    *("offsets", "first_offset", "causal", "residual", "threads", "pieces"),
)
LEARNED = ("q", "k", "v", "w1", "w2", "u", "c", "numerator", "inverse")
INPUTS = (*LEARNED, "edges")
TENSORS = (
    *("q", "k", "v", "w1", "w2", "u", "c", "edges", "numerator", "inverse", "out", "lse"),
    *("dout", "dq", "dk", "dv", "dw1", "dw2", "du", "dc", "dnumerator", "dinverse"),
)


Kernel = Callable[[InstructionSet, ctypes.Structure, bool], None]


class Problem(ctypes.Structure):
    """``struct Problem`` of kernel/interface.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in TENSORS),
    )


@dataclass(frozen=True)
class Pieces:
    """What the bias and the mixer add, piecewise linear in x_ij = numerator(i - j) * inverse(i); float32.

    On piece p, c and u are ``slope * x + intercept``; they must be continuous, since the kernels give no gradient to
    where a piece ends. ``w1``, ``w2`` and ``u`` are None for a bias without mixing.
    """

    c: Tensor
    """[2, h, p], slopes and intercepts; added to the logits."""

    edges: Tensor
    """[p - 1], increasing: x at which a piece ends and the next begins; the outermost pieces have no end."""

    numerator: Tensor
    """[n], x's factor at every offset."""

    inverse: Tensor
    """[queries], its factor at every query."""

    first_offset: int = 0
    """The offset i - j of ``numerator[0]``, as in ``Tables``."""

    w1: Tensor | None = None
    """[D, h], as in ``Tables``."""

    w2: Tensor | None = None
    """[h, D]."""

    u: Tensor | None = None
    """[2, D, p], slopes and intercepts; added before the LeakyReLU."""

    residual: bool = True
    """Whether the logits contain the scores themselves."""


@dataclass(frozen=True)
class _Call:
    """What the tensors of a call do not tell."""

    library: Library
    isa: InstructionSet
    first_offset: int
    residual: bool
    causal: bool
    scale: float


def refusal(*, heads: int, head_dim: int, hidden: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernels cannot compute this attention, as the end of a sentence; None where they can."""
    if device.type != "cpu":
        return f"it runs on the CPU, not on {device.type}"
    if dtype not in DTYPES:
        return f"it computes in float32 and bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if not 1 <= heads <= MAX_HEADS:
        return f"it takes 1 to {MAX_HEADS} heads, not {heads}"
    if head_dim not in HEAD_DIMS:
        return f"it takes head dimensions 32 to 128 in steps of 16, not {head_dim}"
    if hidden > MAX_HIDDEN:
        return f"it takes mixers of up to {MAX_HIDDEN} hidden units, not {hidden}"
    return None


def native_attention(
    library: Library,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Tables | Pieces,
    *,
    causal: bool = True,
    scale: float | None = None,
    isa: InstructionSet | None = None,
) -> Tensor:
    """Attention over tables or pieces; no tensor of size queries x keys, forward or backward.

    Queries are the last rows of the keys: query r stands at position r + keys - queries. Causal attention lets it see
    the keys up to its own position; a row that sees no key gives 0, and gradients of 0. bfloat16 inputs are multiplied
    as bfloat16 where the processor can (sums, logits and softmax stay float32), else computed in float32.

    Args:
        library: from ``load``.
        q: [b, h, queries, d], float32 or bfloat16.
        k: [b, h, keys, d], of the same dtype, as is v.
        v: [b, h, keys, d].
        tables: the bias and the mixer, as tables or as pieces.
        causal: whether later keys are hidden.
        scale: factor of the scores; 1 / sqrt(d) if None.
        isa: instruction set; that of ``MEGADAPE_NATIVE_ISA``, else the best, if None.

    Returns:
        [b, h, queries, d], of the dtype of q.
    """
    c, w1, w2, u = tables.c, tables.w1, tables.w2, tables.u
    if w1 is None or w2 is None or u is None:
        assert w1 is w2 is u is None, "a mixer has w1, w2 and u"
        assert tables.residual, "without mixer and residual the logits would not depend on the scores"
        heads, columns = c.shape[-2:]
        w1, w2, u = c.new_zeros(0, heads), c.new_zeros(heads, 0), c.new_zeros(*c.shape[:-2], 0, columns)
    x = (tables.numerator, tables.inverse, tables.edges) if isinstance(tables, Pieces) else (c.new_zeros(0),) * 3
    _check(q, k, v, w1, w2)
    _check_bias(tables, u, len(w1), q, k, causal)
    call = _Call(
        library,
        isa or library.instruction_set(),
        tables.first_offset,
        tables.residual,
        causal,
        q.shape[-1] ** -0.5 if scale is None else scale,
    )
    dtype = q.dtype
    if dtype == torch.bfloat16 and not call.isa.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    out: Tensor = _NativeAttention.apply(call, *(t.contiguous() for t in (q, k, v, w1, w2, u, c, *x)))
    return out.to(dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, w1: Tensor, w2: Tensor) -> None:
    b, h, _, d = q.shape
    keys, hidden = k.shape[2], len(w1)
    assert refusal(heads=h, head_dim=d, hidden=hidden, dtype=q.dtype, device=q.device) is None
    assert k.shape == v.shape == (b, h, keys, d), (
        f"keys {tuple(k.shape)} and values {tuple(v.shape)} must fit the queries"
    )
    assert k.dtype == v.dtype == q.dtype, "queries, keys and values must be of one dtype"
    assert w1.shape == (hidden, h), f"w1 must be [D, h], it is {tuple(w1.shape)}"
    assert w2.shape == (h, hidden), f"w2 must be [h, D], it is {tuple(w2.shape)}"
    assert w1.dtype == w2.dtype == torch.float32, "weights must be float32"


def _check_bias(tables: Tables | Pieces, u: Tensor, hidden: int, q: Tensor, k: Tensor, causal: bool) -> None:
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    if isinstance(tables, Pieces):
        _check_x(tables, queries)
        lead, columns, offsets = [2], len(tables.edges) + 1, len(tables.numerator)
    else:
        lead, columns, offsets = [], tables.c.shape[1], tables.c.shape[1]
    u_shape, c_shape = [*lead, hidden, columns], [*lead, heads, columns]
    assert list(u.shape) == u_shape, f"u must be {u_shape}, it is {list(u.shape)}"
    assert list(tables.c.shape) == c_shape, f"c must be {c_shape}, it is {list(tables.c.shape)}"
    assert u.dtype == tables.c.dtype == torch.float32, "u and c must be float32"
    needed = range(0 if causal else 1 - queries, keys)
    covered = range(tables.first_offset, tables.first_offset + offsets)
    if queries > 0 and keys > 0:
        assert covered.start <= needed.start, f"the tables cover offsets {covered}, the pairs have {needed}"
        assert needed.stop <= covered.stop, f"the tables cover offsets {covered}, the pairs have {needed}"


def _check_x(pieces: Pieces, queries: int) -> None:
    edges, numerator, inverse = pieces.edges, pieces.numerator, pieces.inverse
    assert edges.dim() == numerator.dim() == 1, "edges and numerator must be vectors"
    assert inverse.shape == (queries,), f"inverse must be [queries], it is {tuple(inverse.shape)}"
    assert edges.dtype == numerator.dtype == inverse.dtype == torch.float32, "edges and factors must be float32"


class _NativeAttention(torch.autograd.Function):
    """The kernels under autograd; keeps the output and the log-sum-exp of the logits, recomputes the rest."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch types it only in its own stubs
        call: _Call,
        *inputs: Tensor,
    ) -> Tensor:
        q = inputs[0]
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:3], dtype=torch.float32)
        named = dict(zip(INPUTS, inputs, strict=True))
        _run(call, call.library.forward, named | {"out": out, "lse": lse})
        ctx.call = call
        ctx.save_for_backward(*inputs, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tensors = dict(zip((*INPUTS, "out", "lse"), ctx.saved_tensors, strict=True))
        # the kernel adds to all gradients but that of q, in float32
        grads = {f"d{name}": torch.zeros(tensors[name].shape, dtype=torch.float32) for name in LEARNED[1:]}
        grads = {"dq": torch.empty(tensors["q"].shape, dtype=torch.float32)} | grads
        _run(ctx.call, ctx.call.library.backward, tensors | grads | {"dout": dout.contiguous()})
        return None, *(grads[f"d{name}"].to(tensors[name].dtype) for name in LEARNED), None


def _run(call: _Call, kernel: Kernel, tensors: dict[str, Tensor]) -> None:
    """Run a kernel on the tensors by name; they must outlive it, hence one function does it all."""
    q, c = tensors["q"], tensors["c"]
    pieces = c.shape[2] if c.dim() == 3 else 0
    for name, tensor in tensors.items():
        assert tensor.is_contiguous(), f"{name} must be contiguous"
        assert tensor.device.type == "cpu", f"{name} must be on the CPU"
    batch, heads, queries, head_dim = q.shape
    problem = Problem(
        batch=batch,
        heads=heads,
        queries=queries,
        keys=tensors["k"].shape[2],
        head_dim=head_dim,
        hidden=len(tensors["w1"]),
        offsets=len(tensors["numerator"]) if pieces else c.shape[1],
        first_offset=call.first_offset,
        causal=call.causal,
        residual=call.residual,
        threads=torch.get_num_threads(),
        pieces=pieces,
        scale=call.scale,
    )
    for name, tensor in tensors.items():
        setattr(problem, name, tensor.data_ptr())
    kernel(call.isa, problem, q.dtype == torch.bfloat16)
