"""What a bias and a mixer add at a pair that depends on nothing but the pair's place: the form that kernels take.

At one query i and key j, with S [h] the scaled scores of all heads::

    logits = [S +] c + W2 LeakyReLU(W1 S + u)

For a bias that depends on the offset alone, ``u`` [D] and ``c`` [h] are read from tables over i - j. FIRE also depends
on the query's position: a small network of one number per pair adds to the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.mixer import VARIANTS, DapeMixer
from megadape.attention.request import Request
from megadape.positions import DistanceBias
from megadape.positions.fire import EPSILON, Fire, Linear


@dataclass(frozen=True)
class Tables:
    """What the bias and the mixer add at every offset; float32.

    ``w1``, ``w2`` and ``u`` are None for a bias without mixing.
    """

    c: Tensor
    """[h, n], added to the logits."""

    first_offset: int = 0
    """The offset i - j of column 0; causal attention needs 0 .. keys - 1, else 1 - queries .. keys - 1."""

    w1: Tensor | None = None
    """[D, h], the columns of the mixer's first layer that see scores."""

    w2: Tensor | None = None
    """[h, D], its second layer."""

    u: Tensor | None = None
    """[D, n], added before the LeakyReLU."""

    residual: bool = True
    """Whether the logits contain the scores themselves."""


@dataclass(frozen=True)
class Network:
    """What FIRE adds to tables: units = act(weight x + bias) of x_ij = numerator(i - j) * inverse(i); float32.

    ``u += to_hidden^T units``, ``c += to_logits^T units``. FIRE's own last layer and the mixer's first are one.
    """

    numerator: Tensor
    """[n], x's factor at every offset, as in ``Tables``."""

    inverse: Tensor
    """[queries], its factor at every query."""

    weight: Tensor
    """[units]."""

    bias: Tensor
    """[units]."""

    to_hidden: Tensor
    """[units, D]; [units, 0] without a mixer."""

    to_logits: Tensor
    """[units, h]."""

    leak: float
    """Slope of the activation below 0."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return self.numerator, self.inverse, self.weight, self.bias, self.to_hidden, self.to_logits


def make_tables(request: Request) -> Tables:
    """What bias and mixer add at every offset that the call has; differentiable."""
    queries, keys = request.q.shape[2], request.k.shape[2]
    first = 0 if request.causal else 1 - queries
    count, bias = max(0, keys - first), None
    if request.bias is not None:
        assert isinstance(request.bias, DistanceBias), "asked before"
        bias = request.bias.at(torch.arange(first, first + count, device=request.device)).float()
    mixer = request.mixer
    if mixer is None:
        return Tables(torch.zeros(request.q.shape[1], count, device=request.device) if bias is None else bias, first)
    assert isinstance(mixer, DapeMixer), "asked before"
    if bias is not None and not VARIANTS[mixer.variant].reads_scores:
        return Tables(bias + mixer.correction(bias[None, :, None], bias[:, None])[0, :, 0], first)
    u, c = mixer.split_bias(bias, count)
    return Tables(c, first, mixer.w1[:, : mixer.num_heads], mixer.w2, u.T)


def make_network(request: Request) -> tuple[Tables, Network]:
    """What FIRE and mixer add, as a network and the rest; differentiable."""
    fire, mixer = request.bias, request.mixer
    assert isinstance(fire, Fire), "asked before"
    first, activation, second = fire.mlp
    assert isinstance(first, Linear), "FIRE's network has one hidden layer"
    assert isinstance(second, Linear), "FIRE's network has one hidden layer"
    factors = fire_factors(fire, request.query_positions, request.k.shape[2], request.causal)
    numerator, inverse, first_offset = factors
    units, count, heads = len(first.bias), len(numerator), request.q.shape[1]
    leak = -float(activation(torch.tensor(-1.0)))
    given = numerator.float(), inverse.float(), first.weight[:, 0].float(), first.bias.float()
    slopes, level = second.weight, second.bias[:, None]
    if mixer is None:
        network = Network(*given, slopes.new_zeros(units, 0), slopes.T, leak)
        return Tables(level.expand(heads, count), first_offset), network
    assert isinstance(mixer, DapeMixer), "asked before"
    u_units, c_units = mixer.split_bias(slopes, units)
    u_none, c_none = mixer.split_bias(torch.zeros_like(slopes), units)
    u, c = mixer.split_bias(level, 1)
    network = Network(*given, u_units - u_none, (c_units - c_none).T, leak)
    tables = Tables(
        c.expand(heads, count), first_offset, mixer.w1[:, :heads], mixer.w2, u.T.expand(mixer.hidden, count)
    )
    return tables, network


def fire_factors(fire: Fire, query_positions: Tensor, keys: int, causal: bool) -> tuple[Tensor, Tensor, int]:
    """x_ij = numerator(i - j) * inverse(i): numerator [n], inverse [queries], and the offset of numerator[0]."""
    c, threshold = fire.c.double().abs(), (fire.L_multiplier.double() * fire.initial_L).abs()
    first = 0 if causal else 1 - len(query_positions)
    offsets = torch.arange(first, max(first, keys), device=c.device)
    normaliser = torch.log1p(c * torch.maximum(threshold, query_positions.double())) + EPSILON
    return torch.log1p(c * offsets.abs()), normaliser.reciprocal(), first


def refuses_terms(request: Request) -> str | None:
    """Why what is added has not this form, or attention needs more, as the end of "it ..."."""
    if request.dropout:
        return "drops no attention weights"
    if request.mixer is not None and not isinstance(request.mixer, DapeMixer):
        return "mixes at one pair at a time"
    if request.bias is not None and not isinstance(request.bias, DistanceBias | Fire):
        return "reads biases of the distance alone, and FIRE"
    if isinstance(request.bias, Fire) and request.mixer and not VARIANTS[request.mixer.variant].reads_scores:
        return "mixes FIRE only where the mixer reads scores"
    if request.q.shape[2] and request.lead != request.k.shape[2] - request.q.shape[2]:
        return "takes consecutive positions, the queries being the last of the keys"
    if request.mixer is not None and request.mixer.w1.dtype != torch.float32:
        return f"takes mixers in float32, not in {str(request.mixer.w1.dtype).removeprefix('torch.')}"
    if request.bias is not None and request.bias.dtype != torch.float32:
        return f"takes biases in float32, not in {str(request.bias.dtype).removeprefix('torch.')}"
    return None
