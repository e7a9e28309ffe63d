"""Paired statistics on data with known answers."""

from itertools import product
from math import exp, inf, isfinite, nan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from megadape.errors import EvaluationError
from megadape.evaluation.statistics import (
    Interval,
    PairedComparison,
    Pairs,
    adjust_comparisons,
    adjust_for_discoveries,
    can_decide,
    compare_pairs,
    crossed_bootstrap,
    describe_power,
    effect_size,
    hedges_factor,
    pair_losses,
    paired_t,
    seeds_needed,
    sign_flip_test,
    smallest_p,
)

FEW = 40
"""Replicates of a bootstrap that a test does not look at."""


def make_pairs(differences: Any, base: float = 3.0) -> Pairs:
    """Pairs whose differences, [seeds, sequences], are given."""
    values = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    return Pairs(tuple(range(len(values))), base + values, np.full_like(values, base))


def crossed(generator: np.random.Generator, seeds: int, sequences: int, shift: float = 0.0) -> np.ndarray:
    """Differences with a part of the seed, a part of the text, and a rest."""
    rows = generator.normal(0, 1.0, (seeds, 1))
    columns = generator.normal(0, 0.7, (1, sequences))
    return shift + rows + columns + generator.normal(0, 1.0, (seeds, sequences))


# --- a true null


def test_under_a_true_null_every_possible_p_is_as_likely() -> None:
    """n = 6: the 32 values k / 32, each with probability 1 / 32."""
    p_values = sign_flip_test(np.random.default_rng(1).normal(size=(500, 6)))
    grid = np.arange(1, 33) / 32
    assert np.isin(np.round(p_values * 32), np.arange(1, 33)).all()
    np.testing.assert_allclose(p_values * 32, np.round(p_values * 32), atol=1e-9)
    counts = np.bincount(np.round(p_values * 32).astype(int), minlength=33)[1:]
    assert counts.sum() == 500
    assert stats.chisquare(counts).pvalue > 0.01
    for level in (0.05, 0.1, 0.5):  # never more false alarms than the level says
        expected = (grid < level).mean()
        assert abs((p_values < level).mean() - expected) < 4 * sqrt(expected * (1 - expected) / 500)


def test_under_a_true_null_the_whole_comparison_is_uniform() -> None:
    """Two methods that differ by nothing but chance, 500 studies of 8 seeds and 5 texts."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(500):
        texts, seeds = generator.normal(3, 1, (1, 5)), generator.normal(0, 0.3, (8, 1))
        reference, other = (texts + seeds + generator.normal(0, 0.1, (8, 5)) for _ in range(2))
        found.append(compare_pairs(Pairs(tuple(range(8)), reference, other), replicates=FEW))
    exact, t_p = (np.array([getattr(one, name) for one in found]) for name in ("exact_p", "t_p"))
    # p lies on multiples of 1 / 128; half a step of noise makes it continuous
    assert stats.kstest(exact - generator.random(500) / 128, "uniform").pvalue > 0.01
    assert stats.kstest(t_p, "uniform").pvalue > 0.01
    covered = np.mean([one.interval is not None and one.interval.low <= 0 <= one.interval.high for one in found])
    assert abs(covered - 0.95) < 4 * sqrt(0.95 * 0.05 / 500)


# --- a known shift


@pytest.mark.parametrize(("seeds", "shift"), [(6, 1.2), (6, 2.5), (10, 0.9)])
def test_a_known_shift_is_found_by_the_t_test_at_its_analytic_power(seeds: int, shift: float) -> None:
    studies, level = 4000, 0.05
    generator = np.random.default_rng(seeds)
    reference = generator.normal(shift, 1, (studies, seeds))
    found = (paired_t(reference, np.zeros_like(reference)).p < level).mean()
    critical = stats.t.ppf(1 - level / 2, seeds - 1)
    distribution = stats.nct(seeds - 1, shift * sqrt(seeds))
    power = distribution.sf(critical) + distribution.cdf(-critical)
    assert abs(found - power) < 4 * sqrt(power * (1 - power) / studies)


@pytest.mark.parametrize("shift", [0.8, 1.5, 2.5])
def test_a_known_shift_is_found_by_the_exact_test_at_its_power(shift: float) -> None:
    """With 6 seeds it rejects at 0.05 when all differences have one sign, and only then."""
    studies, seeds = 3000, 6
    differences = np.random.default_rng(3).normal(shift, 1, (studies, seeds))
    rejected = sign_flip_test(differences) < 0.05
    np.testing.assert_array_equal(rejected, (differences > 0).all(-1) | (differences < 0).all(-1))
    power = stats.norm.cdf(shift) ** seeds + stats.norm.cdf(-shift) ** seeds
    assert abs(rejected.mean() - power) < 4 * sqrt(power * (1 - power) / studies)


@given(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=7))
def test_the_exact_test_is_an_enumeration(values: list[float]) -> None:
    differences = np.array(values)
    sums = np.array([np.dot(signs, differences) for signs in product((1, -1), repeat=len(values))])
    close = 1e-12 * np.abs(differences).sum()
    low, high = ((np.abs(sums) >= abs(differences.sum()) + margin).mean() for margin in (close, -close))
    p_value = float(sign_flip_test(differences))
    assert low - 1e-9 <= p_value <= high + 1e-9
    assert p_value >= smallest_p(len(values)) - 1e-12


def test_the_exact_test_of_many_pairs_draws_signs_and_repeats_itself() -> None:
    differences = np.random.default_rng(4).normal(0.5, 1, 30)
    p_value = float(sign_flip_test(differences))
    assert p_value == float(sign_flip_test(differences))
    assert p_value >= smallest_p(30)
    assert p_value == pytest.approx(float(stats.ttest_1samp(differences, 0).pvalue), rel=0.2)


# --- effect, interval, bootstrap


def test_the_t_interval_and_the_effect_size_by_hand() -> None:
    comparison = compare_pairs(make_pairs([[-0.1], [-0.2], [-0.3], [-0.2]]), replicates=FEW)
    deviation = sqrt(2 * 0.01 / 3)
    assert comparison.difference == pytest.approx(-0.2)
    assert comparison.effect == pytest.approx(-0.2 / deviation)
    half = 3.182446305 * deviation / 2  # t(3) at 97.5 %
    assert comparison.interval == pytest.approx((-0.2 - half, -0.2 + half))
    assert comparison.perplexity_ratio == pytest.approx(exp(-0.2))
    assert comparison.exact_p == pytest.approx(2 / 16)
    assert comparison.smallest_p == pytest.approx(2 / 16)
    assert comparison.reason == ""


def test_hedges_factor_takes_the_bias_away() -> None:
    for n in (4, 6, 10):
        assert hedges_factor(n) == pytest.approx(1 - 3 / (4 * (n - 1) - 1), abs=0.01)
    effects = effect_size(np.random.default_rng(5).normal(0.8, 1, (40_000, 6)))
    assert effects.mean() > 0.9  # biased upwards
    assert effects.mean() * hedges_factor(6) == pytest.approx(0.8, abs=0.02)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """Seeds and texts both vary; the truth is the mean over all of both."""
    generator = np.random.default_rng(6)
    studies, hit = 300, 0
    for _ in range(studies):
        low, high = crossed_bootstrap(crossed(generator, 24, 20, shift=0.3), replicates=400)
        hit += low <= 0.3 <= high
    assert 0.91 <= hit / studies <= 0.985


def test_texts_widen_the_interval_and_are_the_same_for_all_seeds() -> None:
    """Differences that depend on the text alone: seeds agree, and yet other texts would give another mean."""
    texts = np.random.default_rng(7).normal(0, 1, 50)
    interval = crossed_bootstrap(np.tile(texts, (6, 1)), replicates=4000)
    error = texts.std() / sqrt(50)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_the_bootstrap_repeats_itself_and_does_so_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = crossed(np.random.default_rng(8), 6, 16)
    whole = crossed_bootstrap(differences, replicates=500)
    assert whole == crossed_bootstrap(differences, replicates=500)
    assert whole != crossed_bootstrap(differences, replicates=500, seed=1)
    monkeypatch.setattr("megadape.evaluation.statistics.bootstrap.BLOCK", 100)
    assert crossed_bootstrap(differences, replicates=500) == pytest.approx(whole, abs=0.3)


# --- many lengths


def test_benjamini_and_hochberg_by_hand() -> None:
    """Ranks 1..4 of 4: 0.01 x 4/1, 0.02 x 4/2, 0.03 x 4/3, 0.5; each no larger than its successor."""
    assert adjust_for_discoveries([0.03, 0.01, None, 0.5, 0.02]) == [
        pytest.approx(0.04),
        pytest.approx(0.04),
        None,
        pytest.approx(0.5),
        pytest.approx(0.04),
    ]
    assert adjust_for_discoveries([0.01, 0.02, 0.04]) == pytest.approx([0.03, 0.03, 0.04])
    assert adjust_for_discoveries([]) == []
    assert adjust_for_discoveries([None]) == [None]


def test_a_family_of_lengths_is_judged_together() -> None:
    clear, unclear = make_pairs([[-1.0], [-1.1], [-0.9], [-1.2], [-0.8], [-1.0]]), make_pairs([[-1.0], [1.1]] * 3)
    alone = adjust_comparisons({128: compare_pairs(clear, replicates=FEW)})
    assert alone[128].adjusted_p == pytest.approx(2 / 64)
    assert alone[128].verdict(0.05) == "better"
    among = {length: compare_pairs(clear if length == 128 else unclear, replicates=FEW) for length in (128, 256, 512)}
    assert adjust_comparisons(among)[128].adjusted_p == pytest.approx(3 * 2 / 64)
    assert adjust_comparisons(among)[128].verdict(0.05) == "undecided"
    flipped = compare_pairs(Pairs(clear.seeds, clear.other, clear.reference), replicates=FEW)
    assert adjust_comparisons({128: flipped})[128].verdict(0.05) == "worse"


# --- what few seeds can say


def test_what_so_many_seeds_can_reach() -> None:
    assert [smallest_p(n) for n in (1, 2, 3, 5, 6)] == [1.0, 0.5, 0.25, 0.0625, 0.03125]
    assert seeds_needed(0.05) == 6
    assert seeds_needed(0.01) == 8
    assert not can_decide(5, 0.05)
    assert can_decide(6, 0.05)
    assert "cannot give a p below 0.25, so it cannot decide at the level 0.05" in describe_power(3)
    assert "takes 6 seeds" in describe_power(3)
    assert "so it can decide" in describe_power(6)
    assert "with 1 seed the" in describe_power(1)


def test_three_seeds_decide_nothing_however_clear() -> None:
    comparison = adjust_comparisons({128: compare_pairs(make_pairs([[-5.0], [-5.1], [-5.2]]), replicates=FEW)})[128]
    assert comparison.exact_p == pytest.approx(0.25)
    assert comparison.verdict(0.05) == "undecided"
    assert comparison.verdict(0.3) == "better"


# --- nothing comes out as NaN

Losses = st.lists(
    st.lists(st.one_of(st.floats(0, 20), st.sampled_from([0.0, 3.0, inf, nan])), min_size=2, max_size=2), max_size=4
)


@given(Losses, Losses)
def test_whatever_the_losses_nothing_is_nan(first: list[list[float]], second: list[list[float]]) -> None:
    comparison = compare_pairs(pair_losses(dict(enumerate(first)), dict(enumerate(second, 1))), replicates=FEW)
    for value in numbers(comparison):
        assert isfinite(value)
    defined = [comparison.difference, comparison.interval, comparison.corrected_effect, comparison.bootstrap]
    assert bool(comparison.reason) == (None in defined)


def numbers(comparison: PairedComparison) -> list[float]:
    found: list[float] = list(comparison.seed_differences)
    for value in vars(comparison).values():
        if isinstance(value, float):
            found.append(value)
        elif isinstance(value, Interval):
            found += value
    return found


def test_one_seed_has_a_difference_and_no_interval() -> None:
    comparison = compare_pairs(make_pairs([[-0.5, -0.7]]))
    assert comparison.difference == pytest.approx(-0.6)
    assert (comparison.interval, comparison.t_p, comparison.effect, comparison.bootstrap) == (None,) * 4
    assert comparison.exact_p == 1.0
    assert "one seed" in comparison.reason


def test_seeds_that_all_agree_leave_no_interval_of_no_width() -> None:
    # 0.1 + 0.2 - 0.3 is not 0: a spread of rounding is none
    pairs = Pairs((1, 2, 3), np.array([[0.3], [1.3], [2.3]]), np.array([[0.1], [1.1], [2.1]]))
    comparison = compare_pairs(pairs)
    assert comparison.difference == pytest.approx(0.2)
    assert (comparison.interval, comparison.effect) == (None, None)
    assert "equal" in comparison.reason
    same = compare_pairs(make_pairs([[0.0], [0.0]]))
    assert (same.difference, same.exact_p) == (0.0, 1.0)


@pytest.mark.parametrize("value", [inf, nan])
def test_a_method_that_diverged_is_named_with_its_seed(value: float) -> None:
    comparison = compare_pairs(pair_losses({11: [3.0], 12: [3.0]}, {11: [4.0], 12: [value]}))
    assert comparison.seeds == 2
    assert comparison.difference is None
    assert comparison.reason == "a loss is not finite (seed 12)"
    assert comparison.verdict(0.05) == "undecided"


def test_seeds_are_paired_by_their_number() -> None:
    pairs = pair_losses({3: [1.0], 1: [2.0], 7: [0.0]}, {1: [5.0], 3: [6.0], 9: [0.0]})
    assert pairs.seeds == (1, 3)
    assert pairs.unpaired == (7, 9)
    np.testing.assert_array_equal(pairs.differences, [[-3.0], [-5.0]])
    none = compare_pairs(pair_losses({1: [1.0]}, {2: [1.0]}))
    assert (none.seeds, none.exact_p, none.reason) == (0, None, "no seed is common to both")
    assert compare_pairs(pair_losses({}, {})).seeds == 0


def test_results_on_other_texts_are_not_compared() -> None:
    message = r"dape \(seed 1\) was evaluated on 2 sequences and rope \(seed 4\) on 3"
    with pytest.raises(EvaluationError, match=message):
        pair_losses({1: [1.0, 2.0]}, {1: [1.0, 2.0], 4: [1.0, 2.0, 3.0]}, ("dape", "rope"))
    with pytest.raises(EvaluationError, match="no sequence"):
        pair_losses({1: []}, {1: []})
