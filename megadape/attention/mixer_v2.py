"""DAPE V2: scores as a feature map, convolved along the keys (arXiv 2410.04798).

Over scores S and position bias B::

    A = S + B + conv2(LeakyReLU(conv1(tril([S ; B]))))

The convolutions have kernels of (1, k) over (queries, keys) and go from 2h over D to h channels. Their inputs are zero
where a query may not see the key, else scores of later tokens would leak in from the right. DAPE is k = 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from megadape.attention.mixer import NEGATIVE_SLOPE, DapeMixer
from megadape.errors import ConfigurationError
from megadape.positions import Heads
from megadape.settings import Settings


class DapeV2Mixer(DapeMixer):
    """The two convolutions, and the equation around them.

    Parameters ``w1`` [D, 2h, k] (channels of the scores first; [D, h, k] without a bias), ``b1`` [D], ``w2`` [h, D, k],
    ``b2`` [h].

    Both convolutions are padded with k // 2 zeros on each side. Where only some keys are visible, the keys are taken to
    go on, unseen, after the last one: the first convolution has values there, which the second reads. So a query's
    logits do not depend on whether tokens follow, and decoding with a cache equals the whole. The published code ends
    with the last key instead, which changes the last k // 2 queries of a sequence. Before a document's first key there
    is padding, as before the first of all.

    Args:
        num_heads: h, all heads of the model.
        hidden: D.
        kernel: k, odd.
        with_bias: as in ``DapeMixer``.
        heads: as in ``DapeMixer``.

    Raises:
        ConfigurationError: the kernel is even, or a size is below 1.
    """

    def __init__(
        self, num_heads: int, hidden: int = 32, kernel: int = 3, *, with_bias: bool = True, heads: Heads | None = None
    ) -> None:
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigurationError(f"the kernel of a DAPE V2 mixer must be odd, not {kernel}")
        self.kernel = kernel
        super().__init__(num_heads, hidden, with_bias=with_bias, heads=heads)

    def _declare_weights(self, heads: Heads, blocks: int, taps: tuple[int, ...] = ()) -> None:
        super()._declare_weights(heads, blocks, (*taps, self.kernel))

    def correction(
        self,
        scores: Tensor,
        bias: Tensor | None = None,
        visible: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """What is added to S + B: arguments and result as in ``forward``."""
        self._check(scores, bias)
        dtype = torch.promote_types(scores.dtype, self.w1.dtype)
        dtype = dtype if bias is None else torch.promote_types(dtype, bias.dtype)
        if scores.numel() == 0:
            return scores.to(dtype)
        parts = [scores] if bias is None else [scores, bias.expand_as(scores)]
        x = torch.cat([part.to(dtype) for part in parts], dim=1)
        side = self.kernel // 2
        unseen = 0
        if visible is not None:
            x, unseen = x.masked_fill(~visible, 0.0), side
        if outside is not None:
            x = x.masked_fill(outside, 0.0)
        w1, w2 = (weight.to(dtype)[:, :, None] for weight in (self.w1, self.w2))
        alone = self.partners.size == 1
        hidden = functional.conv2d(functional.pad(x, (side, side + unseen)), w1, self.b1.to(dtype) if alone else None)
        if not alone:
            hidden = self._sum_hidden(hidden, self.b1.to(dtype)[:, None, None])
        hidden = functional.leaky_relu(hidden, NEGATIVE_SLOPE)
        if outside is not None:  # as the padding beyond the ends of a sequence
            hidden = hidden.masked_fill(functional.pad(outside, (0, unseen), value=False), 0.0)
        return functional.conv2d(functional.pad(hidden, (side, side - unseen)), w2, self.b2.to(dtype))


class DapeV2Settings(Settings):
    """DAPE V2 over the position encoding beside it."""

    kind: Literal["dape_v2"] = "dape_v2"

    hidden: int = Field(default=32, ge=1)
    """Channels D between the convolutions."""

    kernel: int = Field(default=3, ge=1)
    """Keys k that a convolution reads at a time; odd (3 in the paper)."""

    @field_validator("kernel")
    @classmethod
    def _has_a_middle(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, but is {kernel}")
        return kernel

    def build(self, heads: Heads, *, with_bias: bool) -> DapeV2Mixer:
        """Build the mixer of one layer."""
        return DapeV2Mixer(heads.total, self.hidden, self.kernel, with_bias=with_bias, heads=heads)
