"""Heads: what is looked at, and which are local, on heads whose trend is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from megadape.config import dump_yaml
from megadape.config.run import RunSettings
from megadape.errors import CheckpointError, EvaluationError
from megadape.evaluation.head_profiles import TREND, HeadProfile, HeadTrend, count_kinds, head_trends, running_mean
from megadape.evaluation.heads import head_profiles, profile_heads, profile_layers
from megadape.evaluation.restore import restore_model
from megadape.model import Architecture, build_gpt
from megadape.testing import Silent
from megadape.training.launch import train

LENGTH = 300


def make_profile(bias: Any, correction: Any, layer: int = 0, score: float = 1.0) -> HeadProfile:
    """One query, from lists of rows."""
    added, own = np.atleast_2d(bias).astype(np.float32), np.atleast_2d(correction).astype(np.float32)
    return HeadProfile(layer, added.shape[1] - 1, np.full_like(added, score), added, own)


def distances() -> np.ndarray:
    return np.log1p(np.arange(LENGTH))


# --- the measure


def test_heads_that_fall_are_local_and_heads_that_rise_are_not() -> None:
    fall, flat = -distances(), np.zeros(LENGTH)
    bias = [fall, fall, fall, flat, flat]
    correction = [flat, fall, -2 * fall, flat, -fall]
    trends = head_trends([make_profile(bias, correction)])
    assert [trend.position for trend in trends] == pytest.approx([-1, -1, 1, 0, 1])
    assert [trend.correction for trend in trends] == pytest.approx([0, -1, 1, 0, 1])
    (counts,) = count_kinds(trends)
    assert (counts.heads, counts.local, counts.anti_local) == (5, 2, 2)
    assert (counts.correction_local, counts.correction_anti_local) == (1, 2)


def test_the_trend_is_spearmans() -> None:
    values = np.random.default_rng(2).normal(size=LENGTH) - 0.1 * distances()
    places, means = running_mean(values)
    (trend,) = head_trends([make_profile(np.zeros(LENGTH), values, score=0.0)])
    assert trend.correction == pytest.approx(float(stats.spearmanr(places, means).statistic))


def test_a_trend_is_seen_through_the_scatter_of_single_keys() -> None:
    noise = np.random.default_rng(1).normal(0, 1.0, LENGTH)
    (trend,) = head_trends([make_profile(np.zeros(LENGTH), -0.5 * distances() + noise)])
    assert trend.correction < -0.9


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_scatter_alone_is_rarely_a_trend_and_many_queries_make_it_none(seed: int) -> None:
    generator = np.random.default_rng(seed)
    profiles = [make_profile(np.zeros((2, LENGTH)), generator.normal(size=(2, LENGTH))) for _ in range(40)]
    trends = head_trends(profiles)
    assert [trend.queries for trend in trends] == [40, 40]
    assert all(abs(trend.correction) < 0.25 for trend in trends)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_scale_and_shift_change_no_trend_and_a_sign_turns_it(seed: int, scale: float, shift: float) -> None:
    values = np.random.default_rng(seed).normal(size=LENGTH) - 0.3 * distances()
    flat = np.zeros(LENGTH)
    plain, other, turned = (
        head_trends([make_profile(flat, changed, score=0.0)])[0].correction
        for changed in (values, scale * values + shift, -values)
    )
    assert other == pytest.approx(plain, abs=1e-2)
    assert turned == pytest.approx(-plain)


def test_rounding_is_no_correction() -> None:
    noise = np.linspace(-1e-7, 1e-7, LENGTH)
    (trend,) = head_trends([make_profile(-distances(), noise, score=2.0)])
    assert trend.correction == 0
    assert trend.position == pytest.approx(-1)


def test_a_query_with_nothing_before_it_has_no_trend() -> None:
    (trend,) = head_trends([make_profile([[-1.0]], [[0.5]])])
    assert (trend.position, trend.correction) == (0, 0)


def test_layers_are_counted_apart_and_the_threshold_belongs_to_neither() -> None:
    trends = [
        HeadTrend(1, 0, TREND, -TREND, 1),
        HeadTrend(0, 0, -0.9, 0.6, 1),
        HeadTrend(0, 1, 0.51, 0.0, 1),
    ]
    first, second = count_kinds(trends)
    assert (first.layer, first.heads, first.local, first.anti_local) == (0, 2, 1, 1)
    assert (first.correction_local, first.correction_anti_local) == (0, 1)
    assert (second.layer, second.local, second.anti_local, second.correction_local) == (1, 0, 0, 0)


# --- real models


def test_all_layers_in_one_pass_are_each_layer_alone() -> None:
    architecture = Architecture.model_validate(
        {
            "model": {"num_layers": 3, "hidden_size": 24, "num_heads": 3, "vocab_size": 31},
            "positions": {"kind": "kerple_log"},
            "mixer": {"kind": "dape", "hidden": 6},
            "training_length": 8,
        }
    )
    model = build_gpt(architecture, seed=1)
    tokens = torch.randint(0, 31, (40,), generator=torch.Generator().manual_seed(1))
    together = profile_layers(model, tokens, 30)
    assert [profile.layer for profile in together] == [0, 1, 2]
    for profile in together:
        alone = profile_heads(model, tokens, profile.layer, 30)
        assert (alone.query, alone.score.shape) == (30, (3, 31))
        for name in ("score", "bias", "correction"):
            np.testing.assert_array_equal(getattr(profile, name), getattr(alone, name))
    kerple = [trend.position for trend in head_trends([make_profile(together[0].bias, 0 * together[0].bias)])]
    assert kerple == pytest.approx([-1] * 3)  # Kerple falls in every head
    for bad in ({"layer": 3}, {"layer": 0, "query": 40}):
        with pytest.raises(EvaluationError):
            profile_heads(model, tokens, **bad)


@pytest.fixture(scope="module")
def run_dir(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("heads") / "run"
    run = RunSettings.model_validate(
        {
            "run_dir": folder,
            "data": {"prefix": corpus, "split": "80,20"},
            "model": {"num_layers": 2, "hidden_size": 16, "num_heads": 2},
            "positions": {"kind": "alibi"},
            "mixer": {"kind": "dape", "hidden": 4},
            "training": {"steps": 2, "sequence_length": 16, "global_batch_size": 2, "micro_batch_size": 2},
        }
    )
    assert train(run, dump_yaml(run), Silent()).state == "done"
    return folder


def test_the_heads_of_a_run_at_several_places_of_a_text(run_dir: Path) -> None:
    stream = np.arange(100) % 50
    profiles = head_profiles(run_dir, stream, length=30, texts=3)
    assert [(profile.layer, profile.query) for profile in profiles] == [(0, 29), (1, 29)] * 3
    model = restore_model(run_dir, torch.device("cpu")).model
    last = profile_heads(model, torch.from_numpy(stream[-30:]), 1)
    np.testing.assert_array_equal(profiles[-1].correction, last.correction)
    assert {trend.queries for trend in head_trends(profiles)} == {3}


def test_a_short_text_gives_fewer_and_shorter_stretches(run_dir: Path) -> None:
    assert [one.query for one in head_profiles(run_dir, np.arange(45), length=20)] == [19] * 4
    assert [one.query for one in head_profiles(run_dir, np.arange(7), length=20)] == [6] * 2
    with pytest.raises(EvaluationError, match="no tokens"):
        head_profiles(run_dir, np.arange(0))
    with pytest.raises(CheckpointError, match="does not exist"):
        head_profiles(run_dir / "elsewhere", np.arange(9))
