"""DAPE: a small MLP across heads that corrects attention scores (arXiv 2405.14722, eqs. 2 and 3).

Over scores S and position bias B, at every pair (query, key) on its own::

    A = S + B + f([S ; B]),    f(x) = W2 LeakyReLU(W1 x + b1) + b2

[S ; B] are the 2h numbers that the h heads have at that pair. The variants differ in what f reads and in what is added
to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from megadape.errors import AttentionError, ConfigurationError
from megadape.parallel.collectives import copy_to, reduce_from
from megadape.parallel.group import ALONE, Group
from megadape.parameters import DeclaredModule, fan_in_uniform, substitute
from megadape.positions import Heads
from megadape.settings import Settings

NEGATIVE_SLOPE = 0.01
"""Of the LeakyReLU."""


@dataclass(frozen=True)
class Variant:
    """One form of the equation, over an encoding that gives a bias."""

    inputs: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    """(S, B) -> what f reads; one block of h columns of W1 for each."""

    blocks: int
    """How many blocks that is."""

    adds_bias: bool = True
    """Whether B is added beside S and f."""

    reads_scores: bool = True
    """Whether f reads S; without a bias nothing would be left for it otherwise."""


VARIANTS: dict[str, Variant] = {
    "concat_residual": Variant(lambda scores, bias: (scores, bias), blocks=2),
    "concat": Variant(lambda scores, bias: (scores, bias), blocks=2, adds_bias=False),
    "add_residual": Variant(lambda scores, bias: (scores + bias,), blocks=1),
    "bias_only": Variant(lambda scores, bias: (bias,), blocks=1, reads_scores=False),
}
"""S+B+f([S;B]) (eq. 3), S+f([S;B]) (eq. 2), S+B+f(S+B), and the data-independent S+B+f(B)."""


class DapeMixer(DeclaredModule):
    """The MLP across heads, and the equation around it.

    Parameters ``w1`` [D, 2h] (columns of the scores first, then those of the bias; [D, h] where f reads h numbers),
    ``b1`` [D], ``w2`` [h, D], ``b2`` [h]. A tensor-parallel rank holds the columns of W1, the rows of W2 and the
    entries of b2 of its own heads, and b1. f needs every head: ``gathered`` by the row exchange, or ``summing``.

    Args:
        num_heads: h, all heads of the model.
        hidden: D.
        variant: one of ``VARIANTS``.
        with_bias: whether the position encoding gives a bias; without one B = 0 and f reads the scores alone.
        heads: the heads of this rank; default all.

    Raises:
        ConfigurationError: the variant is unknown, reads a bias that is not there, or a size is below 1.
    """

    def __init__(
        self,
        num_heads: int,
        hidden: int = 32,
        variant: str = "concat_residual",
        *,
        with_bias: bool = True,
        heads: Heads | None = None,
    ) -> None:
        super().__init__()
        _check_options(num_heads, hidden, variant, with_bias)
        heads = heads or Heads(num_heads)
        assert heads.total == num_heads
        self.hidden, self.variant, self.with_bias = hidden, variant, with_bias
        self.num_heads = heads.local
        """Heads that it reads and writes."""
        self.partners = ALONE
        """Ranks that hold the other heads, whose share of W1 x is summed; none unless ``summing``."""
        self._declare_weights(heads, VARIANTS[variant].blocks if with_bias else 1)

    def _declare_weights(self, heads: Heads, blocks: int, taps: tuple[int, ...] = ()) -> None:
        """W1 for ``blocks`` numbers of each head, and W2; ``taps`` is a last axis of both, where neighbours are
        read."""
        columns, own = heads.total * blocks, heads.own
        first, second = (fan_in_uniform(width * prod(taps)) for width in (columns, self.hidden))
        shape = self.hidden, columns, *taps
        self.w1 = self.declare("w1", shape, first, shard_axis=1, own=own, blocks=blocks)
        self.b1 = self.declare("b1", (self.hidden,), first, decay=False)
        self.w2 = self.declare("w2", (heads.total, self.hidden, *taps), second, shard_axis=0, own=own)
        self.b2 = self.declare("b2", (heads.total,), second, shard_axis=0, own=own, decay=False)

    def gathered(self, num_heads: int, tensors: Mapping[str, Tensor]) -> Self:
        """This mixer over all heads, reading these full tensors as its parameters."""
        whole = substitute(self, tensors)
        whole.num_heads = num_heads
        return whole

    def summing(self, group: Group) -> Self:
        """This mixer on its own heads, the hidden layer summed at every pair over the ranks that hold the others."""
        literal = substitute(self, {})
        literal.partners = group
        return literal

    def forward(
        self,
        scores: Tensor,
        bias: Tensor | None = None,
        visible: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """The equation, before any mask.

        Args:
            scores: [b, h, q, k], already scaled.
            bias: [h, q, k] or [b, h, q, k]; None exactly when the mixer was built ``with_bias=False``.
            visible: [q, k] booleans, the keys that each query may see; None where it is all of them. Only mixers that
                read neighbouring keys need it.
            outside: [b, 1, q, k] booleans, keys that do not exist for a query, being of another document; None where
                all do. Only mixers that read neighbouring keys need it.

        Returns:
            Logits [b, h, q, k], in the widest dtype of scores, bias and parameters.

        Raises:
            AttentionError: shapes do not fit, or the bias is missing or unexpected.
        """
        correction = self.correction(scores, bias, visible, outside)
        if bias is None or not VARIANTS[self.variant].adds_bias:
            return scores + correction
        return scores + bias + correction

    def correction(
        self,
        scores: Tensor,
        bias: Tensor | None = None,
        visible: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """f alone, of what the variant reads: arguments and result as in ``forward``."""
        self._check(scores, bias)
        dtype = torch.promote_types(scores.dtype, self.w1.dtype)
        if bias is None:
            parts: tuple[Tensor, ...] = (scores.to(dtype),)
        else:
            dtype = torch.promote_types(dtype, bias.dtype)
            parts = VARIANTS[self.variant].inputs(scores.to(dtype), bias.to(dtype))
        return self._perceptron(parts, dtype).unflatten(-1, scores.shape[2:]).expand(scores.shape)

    def _perceptron(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """W2 LeakyReLU(W1 x + b1) + b2: parts of x [..., h, q, k] -> [..., h, q k]."""
        alone = self.partners.size == 1
        # where other ranks add their heads' share, b1 must come once, after the sum
        hidden = self.b1.to(dtype)[:, None] if alone else self.b1.new_zeros((), dtype=dtype)
        # last block first: a bias without a batch axis stays without one until the scores come in
        for weights, part in reversed(list(zip(self.w1.to(dtype).split(self.num_heads, dim=1), parts, strict=True))):
            hidden = mix(weights, part.flatten(-2)).add_(hidden)
        if not alone:
            hidden = self._sum_hidden(hidden, self.b1.to(dtype)[:, None])
        # in place, here and above: the hidden layer is the largest tensor of all
        hidden = functional.leaky_relu(hidden, NEGATIVE_SLOPE, inplace=alone)
        return mix(self.w2.to(dtype), hidden).add_(self.b2.to(dtype)[:, None])

    def _sum_hidden(self, partial: Tensor, b1: Tensor) -> Tensor:
        """W1 x + b1 from the ranks' shares of W1 x; each rank goes on for its own heads."""
        return copy_to(self.partners, reduce_from(self.partners, partial) + b1)[0]

    def split_bias(self, bias: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """What the bias contributes, apart from the scores: logits = S + c + W2 LeakyReLU(W1_S S + u).

        Every variant that reads scores has this form, W1_S being the first h columns of W1: u = W1_B B + b1 where the
        bias has columns of its own, W1 B + b1 where f reads S + B; c = B + b2, or b2 where the bias is not added.

        Args:
            bias: [h, n], or None where the encoding gives none.
            count: n.

        Returns:
            u [n, D] and c [h, n], in the widest dtype of bias and parameters; differentiable.
        """
        if bias is None:
            return self.b1.expand(count, -1), self.b2[:, None].expand(-1, count)
        dtype = torch.promote_types(bias.dtype, self.w1.dtype)
        w1, bias, b2 = self.w1[:, -self.num_heads :].to(dtype), bias.to(dtype), self.b2.to(dtype)[:, None]
        added = bias + b2 if VARIANTS[self.variant].adds_bias else b2.expand_as(bias)
        return torch.addmm(self.b1.to(dtype), bias.T, w1.T), added

    def _check(self, scores: Tensor, bias: Tensor | None) -> None:
        if scores.dim() != 4 or scores.shape[1] != self.num_heads:
            raise AttentionError(f"a mixer of {self.num_heads} heads cannot read scores of shape {list(scores.shape)}")
        self.check_bias(bias is not None)
        if bias is not None and bias.shape not in (scores.shape, scores.shape[1:]):
            raise AttentionError(
                f"bias {list(bias.shape)} fits scores {list(scores.shape)} neither with nor without batch"
            )

    def check_bias(self, given: bool) -> None:
        """Raise ``AttentionError`` unless a bias is given exactly when the mixer reads one."""
        if self.with_bias and not given:
            raise AttentionError("the mixer reads a position bias, but none is given: build it with with_bias=False")
        if given and not self.with_bias:
            raise AttentionError("the mixer was built with with_bias=False, but a position bias is given")


def _check_options(num_heads: int, hidden: int, variant: str, with_bias: bool) -> None:
    if variant not in VARIANTS:
        raise ConfigurationError(f"unknown mixer variant {variant!r}; known: {', '.join(VARIANTS)}")
    if num_heads < 1 or hidden < 1:
        raise ConfigurationError(f"a mixer needs num_heads and hidden of at least 1, not {num_heads} and {hidden}")
    if not with_bias and not VARIANTS[variant].reads_scores:
        raise ConfigurationError(
            f"mixer variant {variant!r} reads nothing but the position bias, and this encoding gives none: choose "
            "another variant, or an encoding that adds to scores"
        )


def mix(weights: Tensor, x: Tensor) -> Tensor:
    """A linear map across heads at every pair: [m, n], [..., n, pairs] -> [..., m, pairs]."""
    # expanded by hand: matmul would transpose x to fold the batch into its rows
    return weights.expand(*x.shape[:-2], *weights.shape) @ x


class NoMixer(Settings):
    """Scores are used as they are."""

    kind: Literal["none"] = "none"

    def build(self, heads: Heads, *, with_bias: bool) -> None:
        """Nothing to build."""
        return


class DapeSettings(Settings):
    """DAPE over the position encoding beside it."""

    kind: Literal["dape"] = "dape"

    hidden: int = Field(default=32, ge=1)
    """Width D of the MLP; 32 for language models, 64 for the Chomsky tasks (paper)."""

    variant: Literal["concat_residual", "concat", "add_residual", "bias_only"] = "concat_residual"
    """What the MLP reads and what is added to it; the paper's method is concat_residual."""

    def build(self, heads: Heads, *, with_bias: bool) -> DapeMixer:
        """Build the mixer of one layer; ``ConfigurationError`` where the variant needs a bias and there is none."""
        return DapeMixer(heads.total, self.hidden, self.variant, with_bias=with_bias, heads=heads)
