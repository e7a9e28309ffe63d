"""The backward pass: each block's weights are computed again from the saved sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.tiled.blocks import Block
from megadape.attention.tiled.forward import make_scores, take_tile
from megadape.attention.tiled.mixing import LOG2_E, Terms, Weights
from megadape.attention.tiled.plan import Plan
from megadape.attention.tiled.scratch import Scratch
from megadape.attention.tiled.sources import Inputs, TermGradients


def run_backward(
    plan: Plan, saved: tuple[Tensor, ...], weights: Weights, inputs: Inputs, dout: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, the weights, and the inputs of the source.

    Args:
        saved: q, k, v, output and log-sums of ``run_forward``.
        dout: gradient of the output.
    """
    q, k, v, out, log_sums = saved
    dq, dk, dv = (torch.zeros(x.shape, dtype=plan.dtype, device=x.device) for x in (q, k, v))
    dweights = tuple(torch.zeros_like(weight) for weight in weights)
    # the part of the softmax's gradient that all keys of a row share
    shared = (dout.to(plan.dtype) * out).sum(-1, keepdim=True).div_(LOG2_E)
    keys, values = plan.pack(k), plan.pack(v)
    scratch = Scratch(plan.dtype, q.device)
    gradients = plan.source.gradients(inputs, scratch)
    for block in plan.blocks:
        terms = gradients.open(block)
        masked = plan.visibility.masked(block)
        for fold in plan.folds(block, len(q)):
            scores = make_scores(plan, fold, q, keys, scratch)
            upstream = fold.rows(dout)
            probabilities, dlogits = (scratch.take(name, *scores.shape) for name in ("probabilities", "dlogits"))
            flat = dlogits.flatten(0, 1)
            torch.baddbmm(flat, upstream, fold.keys(values).mT, beta=0, alpha=1 / LOG2_E, out=flat)
            row_terms = fold.rows(log_sums), fold.rows(shared)
            tiles = _Tiles(plan, block, terms, masked, *(x.unflatten(0, scores.shape[:2]) for x in row_terms))
            tiles.run(scores, probabilities, dlogits, weights, dweights, gradients, scratch)
            fold.add_product(dv, probabilities.flatten(0, 1), upstream)
            dscores = scores.flatten(0, 1)
            fold.put_rows(dq, torch.bmm(dscores, fold.keys(keys)).mul_(plan.scale))
            fold.add_product(dk, dscores, fold.rows(q).mul_(plan.scale))
        gradients.close(block)
    dqkv = (dx.to(x.dtype) for dx, x in zip((dq, dk, dv), (q, k, v), strict=True))
    return *dqkv, *dweights, *gradients.result()


@dataclass(frozen=True)
class _Tiles:
    """The tiles of one block, between the matrix products of all its rows."""

    plan: Plan
    block: Block
    terms: Terms
    masked: Tensor | None
    log_sums: Tensor
    shared: Tensor

    def run(
        self,
        scores: Tensor,
        probabilities: Tensor,
        dlogits: Tensor,
        weights: Weights,
        dweights: Weights,
        gradients: TermGradients,
        scratch: Scratch,
    ) -> None:
        """Fill the probabilities, and turn scores into their gradient.

        ``dlogits`` holds the gradient of the probabilities.
        """
        for rows in self.plan.tiles(self.block):
            p, d = probabilities[:, :, rows], dlogits[:, :, rows]
            tile = take_tile(rows, scores, self.terms, self.masked)
            self.plan.mixing.forward(tile, weights, p, scratch)
            p.sub_(self.log_sums[:, :, rows]).exp2_()
            if self.masked is not None:
                p[..., -self.masked.shape[1] :].masked_fill_(self.masked[rows], 0.0)
            d.sub_(self.shared[:, :, rows]).mul_(p)
            of_terms = self.plan.mixing.backward(tile, d, weights, dweights, scratch)
            gradients.add(self.block, rows, of_terms)
