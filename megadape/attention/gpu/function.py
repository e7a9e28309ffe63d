"""Exact DAPE attention on a GPU, as a differentiable function.

A chunk of query rows at a time (chunks.py), in a workspace of bounded size: scores of all heads, in place to logits
(mix.py), softmax and values (softmax.py). The backward pass makes the logits again. The workspace is float16 whatever
half precision the inputs have: rounding moves a logit of 16 by 0.004, in bfloat16 it would be 0.03.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megadape.attention.gpu import launch
from megadape.attention.gpu.added import Mix, Sums, mix, unmix
from megadape.attention.gpu.chunks import Budget, cut
from megadape.attention.gpu.scene import Scene, choose_tiles
from megadape.attention.tables import Network, Tables


@dataclass(frozen=True)
class _Call:
    """What the tensors of a call do not tell."""

    leak: float
    first_offset: int
    residual: bool
    causal: bool
    scale: float
    budget: Budget
    programs: int

    def mix(self, added: Sequence[Tensor]) -> Mix:
        """What is added to scores."""
        return Mix(self.leak, self.first_offset, self.residual, *added)


def triton_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Tables,
    network: Network | None = None,
    *,
    causal: bool,
    scale: float,
    budget: Budget,
    programs: int,
) -> Tensor:
    """Attention over tables; no tensor of size queries x keys, forward or backward. The same bits every time.

    Queries are the last rows of the keys: query r stands at position r + keys - queries. A row that sees no key gives
    0, and gradients of 0.

    Args:
        q: [b, h, queries, d], float32, bfloat16 or float16.
        k: [b, h, keys, d].
        v: [b, h, keys, d'].
        tables: the bias and the mixer; float32.
        network: what is added to the tables at every pair; float32.
        causal: whether later keys are hidden.
        scale: factor of the scores.
        budget: how large a chunk may be.
        programs: that a launch should have.

    Returns:
        [b, h, queries, d'], of the dtype of q.
    """
    c, w1, w2, u = tables.c, tables.w1, tables.w2, tables.u
    if w1 is None or w2 is None or u is None:
        assert w1 is w2 is u is None, "a mixer has w1, w2 and u"
        assert tables.residual, "without mixer and residual the logits would not depend on the scores"
        w1, w2, u = c.new_zeros(0, len(c)), c.new_zeros(len(c), 0), c.new_zeros(0, c.shape[1])
    heads, none = len(c), c.new_zeros(0)
    units: tuple[Tensor, ...] = (none, none, none, none, c.new_zeros(0, len(w1)), c.new_zeros(0, heads))
    if network is not None:
        units = network.tensors
    leak = 0.0 if network is None else network.leak
    call = _Call(leak, tables.first_offset, tables.residual, causal, scale, budget, programs)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out: Tensor = _TritonAttention.apply(call, q, k, v, *(x.contiguous() for x in (u.T, c, w1, w2, *units)))
    return out


class _TritonAttention(torch.autograd.Function):
    """The kernels under autograd; keeps the output and the log-sums, computes the rest again."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch types it only in its own stubs
        call: _Call,
        *inputs: Tensor,
    ) -> Tensor:
        q, k, v, *rest = inputs
        added = call.mix(rest)
        out = v.new_zeros(*q.shape[:3], v.shape[3])
        lse = q.new_full(q.shape[:3], float("inf"), dtype=torch.float32)
        space = _Workspace(call, q, k, added)
        for scene in space.scenes:
            logits = space.take("scores", scene)
            launch.score(scene, _rows(q, scene), _keys(k, scene), logits, call.scale)
            mix(scene, added, logits)
            launch.attend(scene, logits, _keys(v, scene), _rows(out, scene), _rows(lse, scene))
        ctx.call = call
        ctx.save_for_backward(*inputs, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        call: _Call = ctx.call
        q, k, v, *rest, out, lse = ctx.saved_tensors
        added = call.mix(rest)
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        shared = (dout.float() * out).sum(-1)
        dq = torch.zeros_like(q, memory_format=torch.contiguous_format)
        dk, dv = (x.new_zeros(x.shape, dtype=torch.float32) for x in (k, v))
        space = _Workspace(call, q, k, added)
        sums = Sums.zeros(added, space.scenes)
        for scene in space.scenes:
            scores, weights = (space.take(name, scene) for name in ("scores", "weights"))
            rows, upstream = _rows(q, scene), _rows(dout, scene)
            launch.score(scene, rows, _keys(k, scene), scores, call.scale)
            launch.score(scene, upstream, _keys(v, scene), weights, 1.0, _rows(shared, scene))
            dscores = unmix(scene, added, scores, weights, _rows(lse, scene), sums)
            launch.add_keys_gradient(scene, weights, upstream, _keys(dv, scene), 1.0)
            launch.add_keys_gradient(scene, dscores, rows, _keys(dk, scene), call.scale)
            launch.put_queries_gradient(scene, dscores, _keys(k, scene), _rows(dq, scene), call.scale)
        return None, dq, dk.to(k.dtype), dv.to(v.dtype), *sums.total()


class _Workspace:
    """The chunks of a call, and the memory that they take turns in."""

    def __init__(self, call: _Call, q: Tensor, k: Tensor, added: Mix) -> None:
        batch, heads, queries, _ = q.shape
        keys = k.shape[2]
        tiles = choose_tiles(q.dtype, heads, len(added.w1), len(added.weight))
        chunks = cut(batch, heads, queries, keys, causal=call.causal, budget=call.budget)
        self.scenes = [
            Scene(chunk, heads, keys - queries + chunk.first_row, call.causal, tiles, call.programs) for chunk in chunks
        ]
        self._dtypes = {"scores": torch.float32 if q.dtype == torch.float32 else torch.float16, "weights": q.dtype}
        self._size = heads * max((scene.chunk.pairs for scene in self.scenes), default=0)
        self._memory: dict[str, Tensor] = {}
        self._device = q.device

    def take(self, name: str, scene: Scene) -> Tensor:
        """Scores or weights of a chunk, not initialised."""
        if name not in self._memory:
            self._memory[name] = torch.empty(self._size, dtype=self._dtypes[name], device=self._device)
        return self._memory[name][: scene.heads * scene.chunk.pairs].view(scene.shape)


def _rows(x: Tensor, scene: Scene) -> Tensor:
    chunk = scene.chunk
    return x[
        chunk.first_sequence : chunk.first_sequence + chunk.sequences, :, chunk.first_row : chunk.first_row + chunk.rows
    ]


def _keys(x: Tensor, scene: Scene) -> Tensor:
    chunk = scene.chunk
    return x[chunk.first_sequence : chunk.first_sequence + chunk.sequences]
