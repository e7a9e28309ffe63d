"""The forward pass: scores, logits, softmax and output, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from megadape.attention.tiled.blocks import Block
from megadape.attention.tiled.fold import Fold
from megadape.attention.tiled.mixing import Terms, Tile, Weights
from megadape.attention.tiled.plan import Plan
from megadape.attention.tiled.scratch import Scratch
from megadape.attention.tiled.sources import Inputs


def run_forward(plan: Plan, q: Tensor, k: Tensor, v: Tensor, weights: Weights, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Attention.

    Returns:
        Output [b, h, q, d'], and the binary logarithm of each row's sum of powers [b, h, q, 1] in the plan's dtype.
    """
    out = v.new_zeros(*q.shape[:3], v.shape[3])
    k, v = plan.pack(k), plan.pack(v)
    log_sums = torch.zeros(*q.shape[:3], 1, dtype=plan.dtype, device=q.device)
    scratch = Scratch(plan.dtype, q.device)
    for block in plan.blocks:
        terms = plan.source.terms(block, inputs)
        masked = plan.visibility.masked(block)
        for fold in plan.folds(block, len(q)):
            scores = make_scores(plan, fold, q, k, scratch)
            sums, tops = _exponentials(plan, block, scores, terms, weights, masked, scratch)
            rows = torch.bmm(scores.flatten(0, 1), fold.keys(v)).div_(sums)
            fold.put_rows(out, rows)
            fold.put_rows(log_sums, sums.log2_().add_(tops))
    return out, log_sums


def make_scores(plan: Plan, fold: Fold, q: Tensor, k: Tensor, scratch: Scratch) -> Tensor:
    """Scaled q k^T of a block: [h, b, rows, keys]."""
    queries, keys = fold.rows(q).mul_(plan.scale), fold.keys(k)
    scores = scratch.take("scores", len(queries), fold.block.rows, fold.block.keys)
    torch.bmm(queries, keys.mT, out=scores)
    return scores.unflatten(0, (q.shape[1], -1))


def take_tile(rows: slice, scores: Tensor, terms: Terms, masked: Tensor | None) -> Tile:
    """Some rows of a block."""
    return Tile(scores[:, :, rows], tuple(term[:, rows] for term in terms), None if masked is None else masked[rows])


def _exponentials(
    plan: Plan, block: Block, scores: Tensor, terms: Terms, weights: Weights, masked: Tensor | None, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Scores become 2^(logit - maximum of the row), 0 where masked; the rows' sums and maxima are [h b, rows, 1]."""
    sums, tops = (scratch.take(name, *scores.shape[:3], 1) for name in ("sums", "tops"))
    # rows that see nothing: 2^(-inf - 0) / 1 makes zeros of them
    blind = None if masked is None or masked.shape[1] < block.keys else masked.all(-1, keepdim=True)
    for rows in plan.tiles(block):
        tile, top = scores[:, :, rows], tops[:, :, rows]
        plan.mixing.forward(take_tile(rows, scores, terms, masked), weights, tile, scratch)
        if masked is not None:
            tile[..., -masked.shape[1] :].masked_fill_(masked[rows], float("-inf"))
        top.copy_(tile.amax(-1, keepdim=True))
        if blind is not None:
            top.masked_fill_(blind[rows], 0.0)
        tile.sub_(top).exp2_()
        sums[:, :, rows] = tile.sum(-1, keepdim=True)
    if blind is not None:
        sums.masked_fill_(blind, 1.0)
    return sums.flatten(0, 1), tops.flatten(0, 1)
