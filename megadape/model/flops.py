"""Floating-point operations of a training step, counted from the model."""

from __future__ import annotations

from dataclasses import dataclass

from megadape.attention import DapeMixer
from megadape.model.gpt import GPT


@dataclass(frozen=True)
class TokenFlops:
    """Operations to train on one token (forward and backward), a multiply-add counted as two."""

    plain: float
    """Projections, MLPs, output layer, and attention's own score and value products below the diagonal."""

    mixing: float
    """The DAPE mixer's products, at every pair below the diagonal."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.plain + self.mixing


def count_token_flops(model: GPT, length: int) -> TokenFlops:
    """Operations a token when training at the given length; of a whole model (the meta device will do).

    Backward counts twice forward; recomputation is not counted. A query sees (length + 1) / 2 keys on average;
    fewer where documents are kept apart, which is not counted.
    """
    shape, keys = model.settings, (length + 1) / 2
    assert shape.vocab_size is not None
    head = shape.vocab_size * shape.hidden_size
    linear = shape.num_layers * (4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.ffn_size) + head
    pairs = shape.num_layers * 2 * shape.hidden_size * keys
    mixers = [module for module in model.modules() if isinstance(module, DapeMixer)]
    mixing = sum(mixer.w1.numel() + mixer.w2.numel() for mixer in mixers) * keys
    return TokenFlops(plain=6 * (linear + pairs), mixing=6 * mixing)
