"""FIRE as lines: its network reads one number, so bias and mixer are piecewise linear in it.

A network ``W2 act(w1 x + b1) + b2`` of one input x >= 0, with ``act`` ReLU or LeakyReLU, is a straight line between two
kinks ``-b1 / w1`` of its units: which units are on is known there, and the line's slope and intercept are sums of
weights. They carry the gradient of the weights. Where a kink lies needs none: both lines agree on it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from megadape.attention.mixer import VARIANTS, DapeMixer
from megadape.attention.native.function import Pieces
from megadape.attention.tables import fire_factors
from megadape.positions.fire import Fire, Linear


def fire_pieces(
    fire: Fire, mixer: DapeMixer | None, query_positions: Tensor, keys: int, *, causal: bool = True
) -> Pieces:
    """What FIRE and the mixer add (arXiv 2310.04418, eq. 6 and 7, in arXiv 2405.14722, eq. 3); differentiable.

    Lines and logarithms are computed in float64 and rounded to float32 once.

    Args:
        fire: the encoding.
        mixer: of a variant that reads scores; None for the bias alone.
        query_positions: [queries], consecutive integers; the queries are the last rows of the keys.
        keys: how many keys there are.
        causal: whether later keys are hidden.
    """
    assert mixer is None or VARIANTS[mixer.variant].reads_scores, "a mixer of the bias alone has kinks of its own"
    numerator, inverse, first_offset = fire_factors(fire, query_positions, keys, causal)
    edges, slopes, intercepts = _lines(fire.mlp, _greatest(numerator) * _greatest(inverse))
    pieces = Pieces(
        torch.stack((slopes, intercepts)).float(),
        edges.float(),
        numerator.float(),
        inverse.float(),
        first_offset,
    )
    if mixer is None:
        return pieces
    u, c = _mix_lines(mixer, slopes, intercepts)
    w1 = mixer.w1[:, : mixer.num_heads]
    return replace(pieces, c=c.float(), u=u.float(), w1=w1, w2=mixer.w2)


def _greatest(x: Tensor) -> float:
    return float(x.detach().max()) if len(x) else 0.0


def _lines(network: nn.Sequential, greatest: float) -> tuple[Tensor, Tensor, Tensor]:
    """The lines of a network of one input 0 <= x <= greatest: edges [p - 1], slopes [h, p], intercepts [h, p]."""
    first, activation, second = network
    assert isinstance(first, Linear), "FIRE's network has one hidden layer"
    assert isinstance(second, Linear), "FIRE's network has one hidden layer"
    w1, b1 = first.weight.double()[:, 0], first.bias.double()
    w2, b2 = second.weight.double(), second.bias.double()
    leak = -activation(w1.new_full((), -1.0))
    kinks = (-b1 / w1).detach()
    edges = kinks[(kinks >= 0) & (kinks < greatest)].sort().values
    beyond = torch.where(w1 == 0, b1 > 0, (edges[:, None] >= kinks) == (w1 > 0))
    on = torch.cat(((b1 > 0)[None], beyond))  # the first piece holds x = 0, where a unit's input is b1
    gain = torch.where(on, 1.0, leak)
    return edges, w2 @ (gain * w1).T, w2 @ (gain * b1).T + b2[:, None]


def _mix_lines(mixer: DapeMixer, slopes: Tensor, intercepts: Tensor) -> tuple[Tensor, Tensor]:
    """Through the mixer, which is affine in the bias: u [2, D, p] and c [2, h, p], slopes and intercepts."""
    count = slopes.shape[1]
    u_slope, c_slope = mixer.split_bias(slopes, count)
    u_zero, c_zero = mixer.split_bias(torch.zeros_like(slopes), count)
    u_intercept, c_intercept = mixer.split_bias(intercepts, count)
    u = torch.stack((u_slope - u_zero, u_intercept)).transpose(1, 2)
    return u, torch.stack((c_slope - c_zero, c_intercept))
