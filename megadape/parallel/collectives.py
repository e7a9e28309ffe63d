"""Collectives under autograd (Megatron's f, g and their sequence-parallel forms; Korthikanti et al., 2022).

Torch's own differentiable all-reduce sums the gradient over the ranks again, which is wrong for the output of a
row-parallel layer: every rank would count it. So each pair forward/backward is written down here.

    copy_to         identity          / all-reduce       a replicated tensor enters a sharded region
    reduce_from     all-reduce        / identity         partial results leave it
    gather_along    all-gather        / reduce-scatter   a sharded tensor enters a region that needs all of it
    scatter_along   reduce-scatter    / all-gather       partial results leave to a sharded tensor

Those that go on while a rank computes, the all-to-all among them, are in ``overlap``.

All ranks of the group must call them in the same order; autograd then runs the backward collectives in the same order,
too. At size 1 each returns its input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megadape.parallel.group import Group


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.group = group
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if len(grads) == 1:
            return None, ctx.group.all_reduce(grads[0].clone(memory_format=torch.contiguous_format))
        # one collective for all
        total = ctx.group.all_reduce(torch.cat([grad.reshape(-1) for grad in grads]))
        sums = total.split([grad.numel() for grad in grads])
        return None, *(part.view(grad.shape).to(grad.dtype) for part, grad in zip(sums, grads, strict=True))


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, x: Tensor) -> Tensor:  # noqa: ANN401
        return group.all_reduce(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        return None, grad


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, axis: int, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.group, ctx.axis = group, axis
        return group.all_gather(x, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:  # noqa: ANN401
        return None, None, ctx.group.reduce_scatter(grad, ctx.axis)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, axis: int, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.group, ctx.axis = group, axis
        return group.reduce_scatter(x, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:  # noqa: ANN401
        return None, None, ctx.group.all_gather(grad, ctx.axis)


def copy_to(group: Group, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Replicated tensors, used by every rank for its own part: their gradients are summed over the ranks."""
    if group.size == 1 or not tensors:
        return tensors
    copies: tuple[Tensor, ...] = _Copy.apply(group, *tensors)
    return copies


def reduce_from(group: Group, x: Tensor) -> Tensor:
    """The sum of the ranks' partial results, with which every rank goes on alike."""
    if group.size == 1:
        return x
    total: Tensor = _Reduce.apply(group, x)
    return total


def gather_along(group: Group, x: Tensor, axis: int) -> Tensor:
    """The ranks' parts one after another along an axis, each rank going on for its own part."""
    if group.size == 1:
        return x
    full: Tensor = _Gather.apply(group, axis, x)
    return full


def scatter_along(group: Group, x: Tensor, axis: int) -> Tensor:
    """This rank's part, along an axis, of the sum of the ranks' partial results."""
    if group.size == 1:
        return x
    own: Tensor = _Scatter.apply(group, axis, x)
    return own
