"""The next token: which may be drawn, and how often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import ConfigurationError, EvaluationError
from megadape.generation import GenerationSettings, generation_settings
from megadape.generation.sampling import choose_tokens, draw, keep_likely, penalise

logit = st.one_of(st.floats(-30, 30), st.sampled_from([0.0, 1.0, -float("inf")]))
rows = st.lists(logit, min_size=1, max_size=12).filter(lambda row: max(row) > -float("inf"))


def choose(row: list[float], at: float, seen: set[int] | None = None, **settings: Any) -> int:
    mask = None if seen is None else torch.tensor([[each in seen for each in range(len(row))]])
    draws = torch.tensor([at], dtype=torch.float64)
    return int(choose_tokens(torch.tensor([row]), GenerationSettings(**settings), mask, draws))


def brute_force(row: list[float], top_k: int | None, top_p: float) -> list[float]:
    """Probabilities after both cuts, normalised."""
    exact = torch.tensor(row, dtype=torch.float64).softmax(-1).tolist()
    order = sorted(range(len(row)), key=lambda place: (-exact[place], place))[:top_k]
    total, kept, reached = sum(exact[place] for place in order), [], 0.0
    for place in order:
        if reached >= top_p * total:
            break
        kept.append(place)
        reached += exact[place]
    share = sum(exact[place] for place in kept)
    return [exact[place] / share if place in kept else 0.0 for place in range(len(row))]


@given(rows, st.none() | st.integers(1, 14), st.floats(0.01, 0.99) | st.just(1.0))
def test_what_may_be_drawn_is_what_the_words_say(row: list[float], top_k: int | None, top_p: float) -> None:
    found = keep_likely(torch.tensor([row], dtype=torch.float64), top_k, top_p)[0]
    wanted = brute_force(row, top_k, top_p)
    if top_p == 1.0:  # the last of many may be so unlikely that it disappears in the sum of those before
        assert ((found / found.sum()) - torch.tensor(wanted, dtype=torch.float64)).abs().max() < 1e-12
    else:
        kept, expected = int((found > 0).sum()), sum(each > 0 for each in wanted)
        assert abs(kept - expected) <= 1  # at the edge, sums in another order may differ in the last bit
        if kept == expected:
            assert (found / found.sum()).tolist() == pytest.approx(wanted, abs=1e-12)


@given(rows, st.floats(0, 1, exclude_max=True))
def test_a_draw_is_the_token_at_its_share(row: list[float], at: float) -> None:
    probabilities = torch.tensor([row], dtype=torch.float64).softmax(-1)
    token = int(draw(probabilities, torch.tensor([at], dtype=torch.float64)))
    assert probabilities[0, token] > 0
    below, through = probabilities[0, :token].sum(), probabilities[0, : token + 1].sum()
    assert below - 1e-12 <= at <= through + 1e-12


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    draws = torch.rand(40_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    row = torch.tensor([1.0, 3.0, -1.0, 2.0])
    for settings in ({}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.8, "temperature": 2.0}):
        chosen = choose_tokens(row.expand(len(draws), -1), GenerationSettings(**settings), None, draws)
        found = chosen.bincount(minlength=4) / len(draws)
        scaled = (row / settings.get("temperature", 1.0)).tolist()
        wanted = brute_force(scaled, settings.get("top_k"), settings.get("top_p", 1.0))
        assert found.tolist() == pytest.approx(wanted, abs=0.01)  # four standard deviations


@given(rows, st.floats(0, 1, exclude_max=True))
def test_greedy_takes_the_likeliest_and_so_do_a_low_temperature_and_one_token(row: list[float], at: float) -> None:
    best = max(row)
    assert row[choose(row, at, temperature=0)] == pytest.approx(best, abs=1e-5)
    for settings in ({"temperature": 1e-300}, {"top_k": 1}, {"top_p": 1e-9}):
        assert row[choose(row, at, **settings)] == pytest.approx(best, abs=1e-5)


@given(rows, st.floats(0.1, 10), st.sets(st.integers(0, 11)))
def test_the_penalty_is_that_of_ctrl(row: list[float], penalty: float, seen: set[int]) -> None:
    mask = torch.tensor([place in seen for place in range(len(row))])
    found = penalise(torch.tensor(row, dtype=torch.float64), mask, penalty).tolist()
    wanted = [
        (each / penalty if each > 0 else each * penalty) if place in seen else each for place, each in enumerate(row)
    ]
    assert found == pytest.approx(wanted)


def test_what_was_said_is_said_less_often() -> None:
    row = [2.0, 1.9, -1.0]
    assert choose(row, 0.5, {0}, temperature=0, repetition_penalty=1.2) == 1
    assert choose(row, 0.5, {0}, temperature=0, repetition_penalty=1.0) == 0


def test_a_model_that_diverged_is_said_so() -> None:
    with pytest.raises(EvaluationError, match="diverged"):
        choose([0.0, float("nan")], 0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": -1}, "temperature: .* greater than or equal to 0, not -1"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ("a", "")}, "stop.1: .* at least 1 character"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"temperature": float("nan")}, "temperature"),
        ({"samples": 0, "seed": -1}, "seed.*samples"),
        ({"top": 1}, "top"),
    ],
)
def test_bad_settings_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"generation: .*{said}"):
        generation_settings(**given)


def test_settings_that_are_not_given_are_the_defaults() -> None:
    assert generation_settings(top_k=None, stop=None) == GenerationSettings()
