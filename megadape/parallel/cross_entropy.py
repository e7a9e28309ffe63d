"""Cross entropy over a vocabulary of which each rank has a part: the logits are never gathered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from megadape.parallel.group import Group
from megadape.parallel.layers import own_ids


class _CrossEntropy(torch.autograd.Function):
    """Keeps the softmax of the own part; three numbers a token are summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, group: Group) -> Tensor:  # noqa: ANN401
        first = group.rank * logits.shape[-1]
        local, elsewhere = own_ids(targets, slice(first, first + logits.shape[-1]))
        largest = group.all_reduce(logits.amax(-1), dist.ReduceOp.MAX)
        shifted = logits - largest[..., None]
        wanted = shifted.gather(-1, local[..., None])[..., 0].masked_fill_(elsewhere, 0.0)
        weights = shifted.exp_()
        # target logit and normaliser in one collective
        wanted, total = group.all_reduce(torch.stack((wanted, weights.sum(-1))))
        ctx.save_for_backward(weights.div_(total[..., None]), local, elsewhere)
        return total.log() - wanted

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        weights, local, elsewhere = ctx.saved_tensors
        logits_grad = weights.clone()
        hit = elsewhere.logical_not().to(weights.dtype)
        logits_grad.scatter_add_(-1, local[..., None], -hit[..., None])
        return logits_grad * grad[..., None], None, None


def cross_entropy(logits: Tensor, targets: Tensor, group: Group) -> Tensor:
    """Cross entropy of every target, in nats, the same on every rank.

    Args:
        logits: [..., own vocabulary], float32 at least; at rank r the columns from r x own vocabulary.
        targets: [...] token ids of the whole vocabulary.
        group: over which the vocabulary is split.

    Returns:
        [...].
    """
    if group.size == 1:
        flat = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
        return flat.view(targets.shape)
    losses: Tensor = _CrossEntropy.apply(logits, targets, group)
    return losses
