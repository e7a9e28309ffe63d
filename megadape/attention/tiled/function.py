"""What autograd sees of the tiled backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megadape.attention.tiled.backward import run_backward
from megadape.attention.tiled.forward import run_forward
from megadape.attention.tiled.plan import Plan


class TiledAttention(torch.autograd.Function):
    """``apply(plan, number of weights, q, k, v, *weights, *inputs of the source)`` -> [b, h, q, d']."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd gives it no type
        plan: Plan,
        weight_count: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *others: Tensor,
    ) -> Tensor:
        """Saves no more than its arguments, its result and a number a row."""
        out, log_sums = run_forward(plan, q, k, v, others[:weight_count], others[weight_count:])
        ctx.plan, ctx.weight_count = plan, weight_count
        ctx.save_for_backward(q, k, v, out, log_sums, *others)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Of every tensor argument."""
        tensors = ctx.saved_tensors  # once: checkpointing computes them anew for each time they are asked for
        first_input = 5 + ctx.weight_count
        with torch.autocast(dout.device.type, enabled=False):
            gradients = run_backward(ctx.plan, tensors[:5], tensors[5:first_input], tensors[first_input:], dout)
        return None, None, *gradients
