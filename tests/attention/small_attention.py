"""Small encodings, mixers and contents of attention, which tests share."""

from itertools import product

import torch
from torch import Tensor

from megadape.attention import BACKENDS, VARIANTS, DapeMixer
from megadape.positions import ENCODINGS, ContextualBias, PositionEncoding, RotaryEncoding, ScoreBias, build

HEADS, WIDTH = 3, 4
ON_SCORES = [name for name in ENCODINGS if isinstance(build(name, 2, head_dim=4), ScoreBias | ContextualBias)]
STATIC = [name for name in ON_SCORES if isinstance(build(name, 2), ScoreBias)]
ROTARY = [name for name in ENCODINGS if isinstance(build(name, 2), RotaryEncoding)]
CASES = [
    (name, variant)
    for name, variant in product(("none", *ROTARY, *ON_SCORES), (None, *VARIANTS))
    if name in ON_SCORES or variant != "bias_only"
]
"""Encodings x mixers that make sense together; None is no mixer."""


GENERAL = [name for name in BACKENDS if name not in ("native", "triton")]
"""Backends that compute in float64; the others have tests of their own."""


def make_encoding(name: str, causal: bool = True) -> PositionEncoding:
    """A small encoding in float64, its parameters away from zero and from their bounds."""
    settings = {"fire": {"initial_L": 4, "width": 5}, "cope": {"max_positions": 3}, "t5": {"max_distance": 20}}
    encoding = build(name, HEADS, head_dim=WIDTH, training_length=8, causal=causal, **settings.get(name, {})).double()
    for parameter in encoding.parameters():
        torch.nn.init.uniform_(parameter, 0.2, 0.9)
    return encoding.eval()


def make_mixer(name: str, variant: str | None) -> DapeMixer | None:
    return DapeMixer(HEADS, 6, variant, with_bias=name in ON_SCORES).double() if variant else None


def make_content(*lengths: int, batch: int = 2, grad: bool = False) -> list[Tensor]:
    return [torch.randn(batch, HEADS, n, WIDTH, dtype=torch.float64, requires_grad=grad) for n in lengths]
