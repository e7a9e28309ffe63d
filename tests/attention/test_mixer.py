"""The mixer is the paper's equation, pair by pair."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from megadape.attention import VARIANTS, DapeMixer, MixerSettings
from megadape.errors import AttentionError, ConfigurationError
from megadape.parameters import parameter_table
from megadape.positions import Heads


def f(mixer: DapeMixer, x: Tensor) -> Tensor:
    hidden = mixer.w1 @ x + mixer.b1
    return mixer.w2 @ torch.where(hidden > 0, hidden, 0.01 * hidden) + mixer.b2


def logits_of_a_pair(mixer: DapeMixer, s: Tensor, b: Tensor) -> Tensor:
    """Scores [h] and bias [h] of one pair -> logits [h]."""
    if not mixer.with_bias:
        return s + f(mixer, s)
    return {
        "concat_residual": lambda: s + b + f(mixer, torch.cat((s, b))),
        "concat": lambda: s + f(mixer, torch.cat((s, b))),
        "add_residual": lambda: s + b + f(mixer, s + b),
        "bias_only": lambda: s + b + f(mixer, b),
    }[mixer.variant]()


@given(
    variant=st.sampled_from(list(VARIANTS)),
    with_bias=st.booleans(),
    contextual=st.booleans(),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 4), st.integers(0, 4)),
    hidden=st.integers(1, 9),
)
def test_the_equation(variant: str, with_bias: bool, contextual: bool, shape: tuple[int, ...], hidden: int) -> None:
    if variant == "bias_only":
        with_bias = True
    mixer = DapeMixer(shape[1], hidden, variant, with_bias=with_bias).double()
    scores, bias = torch.randn(shape).double(), torch.randn(shape if contextual else shape[1:]).double()
    logits = mixer(scores, bias if with_bias else None)
    assert logits.shape == shape
    full = bias.expand(shape)
    for b in range(shape[0]):
        for i in range(shape[2]):
            for j in range(shape[3]):
                expected = logits_of_a_pair(mixer, scores[b, :, i, j], full[b, :, i, j])
                torch.testing.assert_close(logits[b, :, i, j], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_what_is_left_without_the_correction(variant: str) -> None:
    mixer = DapeMixer(3, 8, variant)
    scores, bias = torch.randn(2, 3, 4, 5), torch.randn(3, 4, 5)
    left = mixer(scores, bias) - mixer.correction(scores, bias)
    torch.testing.assert_close(left, scores if variant == "concat" else scores + bias)


@pytest.mark.parametrize(
    ("variant", "with_bias", "columns"),
    [
        ("concat_residual", True, 12),
        ("concat", True, 12),
        ("add_residual", True, 6),
        ("bias_only", True, 6),
        ("concat_residual", False, 6),
        ("concat", False, 6),
        ("add_residual", False, 6),
    ],
)
def test_parameters(variant: str, with_bias: bool, columns: int) -> None:
    table = parameter_table(DapeMixer(6, 16, variant, with_bias=with_bias))
    shapes = {name: (spec.shape, spec.decay) for name, spec in table.items()}
    assert shapes == {
        "w1": ((16, columns), True),
        "b1": ((16,), False),
        "w2": ((6, 16), True),
        "b2": ((6,), False),
    }


def test_initial_values_are_those_of_a_linear_layer() -> None:
    mixer = DapeMixer(50, 64)
    for parameter, fan_in in ((mixer.w1, 100), (mixer.b1, 100), (mixer.w2, 64), (mixer.b2, 64)):
        bound = fan_in**-0.5
        assert 0.8 * bound < parameter.detach().abs().max() <= bound


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_gradients(variant: str) -> None:
    torch.manual_seed(0)
    mixer = DapeMixer(3, 5, variant).double()
    scores = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, b, *_: mixer(s, b), (scores, bias, *mixer.parameters()))


def test_the_widest_precision_decides() -> None:
    mixer, scores, bias = DapeMixer(2), torch.randn(1, 2, 3, 3), torch.randn(2, 3, 3)
    assert mixer(scores.bfloat16(), bias.bfloat16()).dtype == torch.float32
    assert mixer.bfloat16()(scores, bias.bfloat16()).dtype == torch.float32
    assert mixer(scores.bfloat16(), bias.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "sum"}, "unknown mixer variant 'sum'; known: concat_residual"),
        ({"hidden": 0}, "at least 1"),
        ({"num_heads": 0}, "at least 1"),
        ({"variant": "bias_only", "with_bias": False}, "gives none"),
    ],
)
def test_mistakes_in_building(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DapeMixer(**{"num_heads": 4, **arguments})


@pytest.mark.parametrize(
    ("with_bias", "scores", "bias", "message"),
    [
        (True, (1, 3, 2, 2), (3, 2, 2), "mixer of 4 heads"),
        (True, (4, 2, 2), (4, 2, 2), "mixer of 4 heads"),
        (True, (1, 4, 2, 2), None, "none is given"),
        (False, (1, 4, 2, 2), (4, 2, 2), "with_bias=False"),
        (True, (1, 4, 2, 2), (4, 2, 3), "fits scores"),
        (True, (1, 4, 2, 2), (1, 2, 2), "fits scores"),
    ],
)
def test_mistakes_in_calling(
    with_bias: bool, scores: tuple[int, ...], bias: tuple[int, ...] | None, message: str
) -> None:
    mixer = DapeMixer(4, with_bias=with_bias)
    with pytest.raises(AttentionError, match=message):
        mixer(torch.zeros(scores), None if bias is None else torch.zeros(bias))


def test_settings() -> None:
    read = TypeAdapter(MixerSettings).validate_python
    mixer = read({"kind": "dape", "hidden": 8, "variant": "concat"}).build(Heads(6), with_bias=False)
    assert (mixer.num_heads, mixer.hidden, mixer.variant, mixer.with_bias) == (6, 8, "concat", False)
    assert read({"kind": "none"}).build(Heads(6), with_bias=True) is None
    assert set(read({"kind": "dape"}).model_fields_set) == {"kind"}
