"""Encodings that add to the token embeddings."""

from math import cos, sin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import ConfigurationError
from megadape.positions import build


@given(length=st.integers(0, 5), shift=st.integers(0, 100_000), half=st.integers(1, 4))
def test_sinusoidal(length: int, shift: int, half: int) -> None:
    encoding = build("sinusoidal", 2, hidden_size=2 * half).double()
    embedded = encoding.embed(torch.arange(length) + shift)
    assert embedded.shape == (length, 2 * half)
    for row in range(length):
        for m in range(half):
            angle = (shift + row) / 10_000 ** (m / half)
            assert float(embedded[row, 2 * m]) == pytest.approx(sin(angle), abs=1e-10)
            assert float(embedded[row, 2 * m + 1]) == pytest.approx(cos(angle), abs=1e-10)


def test_sinusoidal_follows_the_precision_of_the_model() -> None:
    encoding = build("sinusoidal", 2, hidden_size=4)
    assert encoding.embed(torch.arange(3)).dtype == torch.float32
    assert encoding.bfloat16().embed(torch.arange(3)).dtype == torch.float32
    assert encoding.double().embed(torch.arange(3)).dtype == torch.float64


@pytest.mark.parametrize("name", ["sinusoidal", "transformer_xl"])
def test_an_odd_width_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="pairs sines with cosines"):
        build(name, 1, hidden_size=7)


def test_learned_rows_and_what_lies_past_them() -> None:
    encoding = build("learned", 2, hidden_size=6, training_length=10)
    embedded = encoding.embed(torch.tensor([0, 9, 10, 5000]))
    torch.testing.assert_close(embedded, encoding.table[[0, 9, 9, 9]])
    assert build("learned", 2, hidden_size=6, training_length=10, max_positions=20).table.shape == (20, 6)


def test_learned_rows_get_gradients() -> None:
    encoding = build("learned", 2, hidden_size=2, training_length=4).double()
    assert torch.autograd.gradcheck(lambda _: encoding.embed(torch.tensor([1, 3, 8])), encoding.table)
