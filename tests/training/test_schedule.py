"""Learning rate over the steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.training.schedule import SHAPES, ScheduleSettings


@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1))
def test_rises_to_the_peak_then_never_rises_and_stays_in_bounds(
    kind: str, steps: int, warmup: float, minimum: float, descent: float
) -> None:
    schedule = ScheduleSettings.model_validate({"kind": kind, "warmup": warmup, "minimum": minimum, "descent": descent})
    factors = [schedule.factor(step, steps) for step in range(steps)]
    peak = max(range(steps), key=factors.__getitem__)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert all(after <= before + 1e-12 for before, after in zip(factors[peak:], factors[peak + 1 :], strict=False))
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_ends_at_the_minimum(kind: str) -> None:
    schedule = ScheduleSettings.model_validate({"kind": kind, "warmup": 0.1, "minimum": 0.1})
    assert schedule.factor(9, 100) == 1.0
    assert schedule.factor(99, 100) == pytest.approx(0.1)


def test_known_values() -> None:
    assert ScheduleSettings(kind="linear", warmup=0, minimum=0).factor(25, 101) == pytest.approx(0.75)
    assert ScheduleSettings(kind="cosine", warmup=0, minimum=0).factor(50, 101) == pytest.approx(0.5)
    assert ScheduleSettings(kind="wsd", warmup=0, minimum=0, descent=0.2).factor(80, 101) == pytest.approx(1.0)
    assert ScheduleSettings(kind="wsd", warmup=0, minimum=0, descent=0.2).factor(90, 101) == pytest.approx(0.5)
    assert ScheduleSettings(warmup=0.04).factor(0, 100) == pytest.approx(0.25)
