"""Encodings that turn queries and keys."""

from math import cos, log, pi, sin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from megadape.errors import ConfigurationError
from megadape.positions import RotaryEncoding, build


def turned_by_hand(x: Tensor, positions: list[int], rates: list[float], magnitude: float = 1.0) -> Tensor:
    """Each pair (m, m + d/2) as a point of the plane, turned on its own."""
    out, half = torch.empty_like(x), x.shape[-1] // 2
    for row, position in enumerate(positions):
        for m, rate in enumerate(rates):
            a, b = x[..., row, m], x[..., row, m + half]
            c, s = cos(position * rate) * magnitude, sin(position * rate) * magnitude
            out[..., row, m], out[..., row, m + half] = a * c - b * s, a * s + b * c
    return out


@given(length=st.integers(0, 6), shift=st.integers(0, 50_000), half=st.integers(1, 5))
def test_rope_turns_pairs_of_the_two_halves(length: int, shift: int, half: int) -> None:
    rope = build("rope", 2, head_dim=2 * half)
    x = torch.randn(2, 2, length, 2 * half, dtype=torch.float64)
    positions = torch.arange(length) + shift
    rates = [10_000.0 ** (-m / half) for m in range(half)]
    expected = turned_by_hand(x, positions.tolist(), rates)
    torch.testing.assert_close(rope.rotate(x, positions, length), expected, rtol=1e-10, atol=1e-10)


@given(s=st.sampled_from([1.0, 1.5, 4.0, 64.0]), dynamic=st.booleans())
def test_yarn_blends_by_parts(s: float, dynamic: bool) -> None:
    yarn = build("yarn", 2, head_dim=32, training_length=128, factor=None if dynamic else s)
    rates = []
    for m in range(16):
        rate = 10_000.0 ** (-m / 16)
        ramp = min(max((128 * rate / (2 * pi) - 1) / (32 - 1), 0), 1)
        rates.append((1 - ramp) * rate / s + ramp * rate)
    x, positions = torch.randn(1, 2, 3, 32, dtype=torch.float64), torch.tensor([0, 5, 1000])
    expected = turned_by_hand(x, positions.tolist(), rates, 0.1 * log(s) + 1)
    length = int(128 * s) if dynamic else 17
    torch.testing.assert_close(yarn.rotate(x, positions, length), expected, rtol=1e-10, atol=1e-10)


def test_yarn_within_the_training_length_is_rope() -> None:
    x, positions = torch.randn(1, 2, 40, 8), torch.arange(40)
    yarn, rope = (build(name, 2, head_dim=8, training_length=64) for name in ("yarn", "rope"))
    torch.testing.assert_close(yarn.rotate(x, positions, 40), rope.rotate(x, positions, 40))


@pytest.mark.parametrize("name", ["rope", "yarn", "randomized_rope"])
def test_products_depend_on_the_offset_alone_even_far_out(name: str) -> None:
    encoding = build(name, 1, head_dim=16, training_length=64)
    assert isinstance(encoding, RotaryEncoding)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i: int, j: int) -> Tensor:
        return (encoding.rotate(q, torch.tensor([i]), 512) * encoding.rotate(k, torch.tensor([j]), 512)).sum()

    # float32 angles would miss this by 1e-2 at a million
    torch.testing.assert_close(product(1_000_013, 1_000_000), product(13, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rope", "yarn", "randomized_rope"])
def test_dtype_is_kept_and_gradients_flow(name: str) -> None:
    encoding = build(name, 2, head_dim=4)
    assert encoding.rotate(torch.randn(1, 2, 3, 4, dtype=torch.bfloat16), torch.arange(3), 3).dtype == torch.bfloat16
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: encoding.rotate(x, torch.arange(3) + 9, 2000), x)


@pytest.mark.parametrize("name", ["rope", "yarn", "randomized_rope"])
def test_an_odd_head_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="pairs of dimensions"):
        build(name, 2, head_dim=5)


@given(length=st.integers(0, 600), training=st.booleans())
def test_randomised_positions_are_a_sorted_subset_of_the_range(length: int, training: bool) -> None:
    encoding = build("randomized_rope", 2, head_dim=4, training_length=64).train(training)
    positions = encoding.positions(length)
    assert positions.shape == (length,)
    assert (positions.diff() > 0).all()
    assert ((positions >= 0) & (positions < max(length, 4 * 64))).all()


def test_randomised_positions_are_redrawn_in_training_and_repeat_in_evaluation() -> None:
    encoding = build("randomized_rope", 2, head_dim=4, training_length=64)
    torch.manual_seed(5)
    first, second = encoding.positions(64), encoding.positions(64)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    torch.testing.assert_close(encoding.positions(64), first)

    encoding.eval()
    state = torch.get_rng_state()
    torch.testing.assert_close(encoding.positions(64), encoding.positions(64))
    torch.testing.assert_close(torch.get_rng_state(), state)


def test_every_position_of_the_range_is_drawn_sooner_or_later() -> None:
    torch.manual_seed(0)
    encoding = build("randomized_rope", 2, head_dim=4, training_length=8)
    seen = torch.cat([encoding.positions(8) for _ in range(200)]).unique()
    assert seen.tolist() == list(range(32))
