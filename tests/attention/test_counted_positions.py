"""Positions that count up by one are told by their first, and no device is asked for them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_attention import GENERAL, make_content, make_encoding, make_mixer

from megadape.attention import BACKENDS, dape_attention
from megadape.attention.reference import Reference
from megadape.attention.request import Request, make_request
from megadape.attention.rows import Rows, take_rows
from megadape.attention.sdpa import Sdpa
from megadape.model.layout import make_layout
from megadape.parallel.sharding import WHOLE
from megadape.positions import ENCODINGS, build


def ask(queries: int, keys: int, first: int | None, **given: torch.Tensor) -> Request:
    """Of tensors without memory: whoever reads one fails."""
    q, k = (torch.empty(1, 2, n, 4, device="meta") for n in (queries, keys))
    return make_request(q, k, k, query_positions=given.pop("at", first), **given)


@given(st.integers(1, 9), st.integers(1, 9), st.none() | st.integers(-3, 12))
def test_nothing_is_read_to_see_how_positions_lie(queries: int, keys: int, first: int | None) -> None:
    if first is None and queries > keys:
        return
    request, at = ask(queries, keys, first), keys - queries if first is None else first
    assert request.lead == at
    assert request.triangular == (at == keys - queries >= 0)
    told = ask(queries, keys, None, at=torch.arange(queries, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        _ = told.lead
    blocks = take_rows(request, queries // 2, queries)
    assert blocks.k.shape[2] == max(0, min(keys, at + queries))
    assert blocks.lead == at + queries // 2 if blocks.k.shape[2] else blocks.lead is None


@pytest.mark.parametrize("name", ["none", "kerple_log", "fire", "cope", "transformer_xl"])
@settings(max_examples=25)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(-3, 12), st.booleans(), st.sampled_from([None, "concat_residual"])
)
def test_a_first_position_is_all_positions(
    name: str, queries: int, keys: int, first: int, causal: bool, variant: str | None
) -> None:
    encoding, mixer = make_encoding(name, causal), make_mixer(name, variant)
    content, at = make_content(queries, keys, keys), torch.arange(first, first + queries)
    terms = {"bias": None if name == "none" else encoding, "mixer": mixer, "causal": causal}
    expected = make_request(*content, **terms, query_positions=at, key_positions=torch.arange(keys))
    counted = make_request(*content, **terms, query_positions=first)
    assert (counted.lead, counted.triangular) == (expected.lead, expected.triangular)
    whole = Reference()(expected)
    for budget in (1, 500):
        torch.testing.assert_close(Rows((Sdpa(), Reference()), budget)(counted), whole)
    for backend in GENERAL:
        if BACKENDS[backend].refuses(counted) is None:
            found = dape_attention(*content, **terms, query_positions=first, backend=backend)
            torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_encodings_say_whether_their_positions_count(name: str) -> None:
    encoding = build(name, 2, head_dim=4, training_length=8)
    for training in (True, False):
        encoding.train(training)
        layout = make_layout(encoding, 6, torch.device("cpu"), WHOLE)
        if layout.counted:
            assert layout.positions.tolist() == list(range(6))
    assert layout.counted == (name != "randomized_rope")
