"""What becomes of updates that look wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.training.supervision.anomalies import AnomalySettings, AnomalyWatch, Verdict

WINDOW = 8
ORDINARY = [3.0 + 0.01 * (step % 5) for step in range(WINDOW)]


def filled(**settings: Any) -> AnomalyWatch:
    watch = AnomalyWatch(AnomalySettings(window=WINDOW, **settings))
    assert all(watch.judge(loss, 1.0) == Verdict() for loss in ORDINARY)
    return watch


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "norm"])
def test_not_finite_is_left_out_or_ends_the_run_but_is_never_admitted(loss: float, where: str) -> None:
    numbers = (loss, 1.0) if where == "loss" else (1.0, loss)
    stops = filled().judge(*numbers)
    assert (stops.skip, stops.stop) == (True, True)
    assert "not finite" in str(stops.reason)
    skips = filled(not_finite="skip").judge(*numbers)
    assert (skips.skip, skips.stop) == (True, False)


@pytest.mark.parametrize(
    ("action", "skip", "stop"), [("count", False, False), ("skip", True, False), ("stop", True, True)]
)
@pytest.mark.parametrize(("loss", "norm", "name"), [(9.0, 1.0, "loss 9 is"), (3.0, 40.0, "gradient norm 40 is")])
def test_spikes_of_either_number_meet_the_action(
    action: str, skip: bool, stop: bool, loss: float, norm: float, name: str
) -> None:
    watch = filled(spike=action)
    verdict = watch.judge(loss, norm)
    assert (verdict.skip, verdict.stop) == (skip, stop)
    assert str(verdict.reason).startswith(name)
    assert watch.spikes == 1
    assert watch.skipped == (action == "skip")


def test_nothing_is_a_spike_before_the_window_is_full_nor_when_it_falls() -> None:
    watch = AnomalyWatch(AnomalySettings(window=WINDOW, spike="stop"))
    assert all(watch.judge(loss, 1.0) == Verdict() for loss in (11.0, 3.0, 50.0, 9.0))
    assert filled(spike="stop").judge(0.1, 0.001) == Verdict()


def test_equal_numbers_do_not_make_the_least_change_a_spike() -> None:
    watch = AnomalyWatch(AnomalySettings(window=WINDOW, spike="stop"))
    assert all(watch.judge(2.0, 1.0) == Verdict() for _ in range(WINDOW))
    assert watch.judge(2.0001, 1.0001) == Verdict()


def test_a_level_that_stays_ends_the_run_after_so_many_skips_and_one_good_update_starts_the_count_anew() -> None:
    watch = filled(spike="skip", max_skips=3)
    for loss in (9.0, 9.0, 3.0, 9.0, 9.0):
        assert not watch.judge(loss, 1.0).stop
    last = watch.judge(9.0, 1.0)
    assert last.stop
    assert "3 updates in a row were left out" in str(last.reason)
    assert (watch.skipped, watch.in_a_row, watch.spikes) == (5, 3, 5)


def test_a_level_that_is_only_counted_becomes_ordinary() -> None:
    watch = filled()
    verdicts = [watch.judge(9.0, 1.0) for _ in range(WINDOW)]
    assert verdicts[0].reason
    assert verdicts[-1] == Verdict()


losses = st.floats(0.1, 100.0) | st.sampled_from([math.nan, math.inf])


@given(st.lists(st.tuples(losses, losses), max_size=60), st.data())
def test_stopped_and_resumed_anywhere_it_judges_as_if_never_stopped(
    numbers: list[tuple[float, float]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(numbers)))
    settings = AnomalySettings(window=WINDOW, spike="skip", not_finite="skip", deviations=3.0)
    whole, first, second = (AnomalyWatch(settings) for _ in range(3))
    expected = [whole.judge(*pair) for pair in numbers]
    before = [first.judge(*pair) for pair in numbers[:cut]]
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert before + [second.judge(*pair) for pair in numbers[cut:]] == expected
    assert second.state() == whole.state()


def test_a_state_fits_other_settings() -> None:
    short = AnomalyWatch(AnomalySettings(window=WINDOW, spike="stop"))
    long = AnomalyWatch(AnomalySettings(window=100))
    for step in range(100):
        long.judge(float(step), 1.0)
    short.load_state(long.state())
    assert short.state()["losses"] == [float(step) for step in range(92, 100)]
