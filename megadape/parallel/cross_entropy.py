"""Cross entropy over a vocabulary of which each rank has a part: the logits are never gathered.

In training the loss can be taken together with the output layer, some tokens at a time: their logits become gradients
at once and are gone, so that no pass ever holds those of all tokens, and none are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from megadape.parallel.group import Group
from megadape.parallel.layers import own_ids

Score = Callable[[Tensor, Tensor, Group], tuple[Tensor, Tensor]]
"""(logits, targets, group) -> losses and their gradients by the logits."""


class _CrossEntropy(torch.autograd.Function):
    """Keeps the gradient by the logits of the own part, which is as large as they are."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, group: Group) -> Tensor:  # noqa: ANN401
        losses, slopes = score_logits(logits, targets, group)
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (slopes,) = ctx.saved_tensors
        return slopes * grad[..., None], None, None


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


def score_logits(logits: Tensor, targets: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Losses [...] of logits [..., own vocabulary], float32 at least, and the gradient of each loss by its logits.

    Three numbers a token go over the ranks.
    """
    first = group.rank * logits.shape[-1]
    local, elsewhere = own_ids(targets, slice(first, first + logits.shape[-1]))
    largest = group.all_reduce(logits.amax(-1), dist.ReduceOp.MAX)
    shifted = logits - largest[..., None]
    wanted = shifted.gather(-1, local[..., None])[..., 0].masked_fill_(elsewhere, 0.0)
    weights = shifted.exp_()
    # target logit and normaliser in one collective
    wanted, total = group.all_reduce(torch.stack((wanted, weights.sum(-1))))
    hit = elsewhere.logical_not().to(weights.dtype)
    slopes = weights.div_(total[..., None]).scatter_add_(-1, local[..., None], -hit[..., None])
    return total.log() - wanted, slopes


class _MeanCrossEntropy(torch.autograd.Function):
    """Makes gradients in the forward pass; the backward pass multiplies them by that of the mean."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        group: Group,
        chunk: int,
        score: Score,
    ) -> Tensor:
        kind = hidden.device.type
        products = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        inputs, table = hidden.to(products), weight.to(products)
        hidden_grad, weight_grad = torch.empty_like(hidden), torch.zeros_like(weight)
        exact = torch.promote_types(products, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        pieces = zip(inputs.split(chunk), targets.split(chunk), hidden_grad.split(chunk), strict=True)
        for piece, wanted, piece_grad in pieces:
            losses, slopes = score((piece @ table.mT).to(exact), wanted, group)
            total += losses.sum()
            # not yet divided by the number of tokens: half precision would lose the small ones
            slopes = slopes.to(products)
            piece_grad.copy_(slopes @ table)
            weight_grad += slopes.mT @ piece
            del slopes  # or they would be there beside the next chunk's logits
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.tokens = len(hidden)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden_grad, weight_grad = ctx.saved_tensors
        factor = grad / ctx.tokens
        return hidden_grad * factor, weight_grad * factor, None, None, None, None


def mean_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, group: Group, chunk: int, score: Score = score_logits
) -> Tensor:
    """Mean cross entropy behind an output layer, in nats, the same on every rank; for training, since it makes
    gradients whether they are wanted or not.

    Args:
        hidden: [n, hidden]; under autocast it is multiplied in that dtype.
        weight: [own vocabulary, hidden]; rank r has the r-th part of the vocabulary.
        targets: [n] token ids of the whole vocabulary.
        group: over which the vocabulary is split.
        chunk: tokens whose logits are held at once.
        score: how a chunk's logits are scored.

    Returns:
        Scalar, float32 at least. Its second derivatives are not there.
    """
    loss: Tensor = _MeanCrossEntropy.apply(hidden, weight, targets, group, chunk, score)
    return loss
