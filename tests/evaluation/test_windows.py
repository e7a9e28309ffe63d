"""Which tokens are scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import EvaluationError
from megadape.evaluation.windows import MODES, plan_windows

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True)


@given(LENGTHS, st.integers(0, 400), st.integers(1, 50), st.integers(1, 12), st.sampled_from(sorted(MODES)))
def test_windows_stay_in_the_text_and_targets_do_not_overlap(
    lengths: list[int], extra: int, k: int, most: int, mode: str
) -> None:
    stream = np.arange(max(lengths) + 1 + extra)
    for windows in plan_windows(mode, len(stream), lengths, k, most):
        assert 1 <= len(windows.ends) <= most
        targets: list[int] = []
        for index in range(len(windows.ends)):
            tokens = windows.tokens(stream, index)
            assert len(tokens) == windows.length + 1
            targets.extend(tokens[-windows.scored :])
        assert len(set(targets)) == len(targets)


@given(LENGTHS, st.integers(0, 400), st.integers(1, 50), st.integers(1, 12))
def test_fixed_target_scores_the_same_tokens_at_every_length(lengths: list[int], extra: int, k: int, most: int) -> None:
    plan = plan_windows("fixed_target", max(lengths) + 1 + extra, lengths, k, most)
    assert {windows.ends for windows in plan} == {plan[0].ends}
    assert {windows.scored for windows in plan} == {min(k, *lengths)}


def test_the_other_modes_score_the_last_k_or_all() -> None:
    assert [w.scored for w in plan_windows("last_k", 500, [64, 512 // 2], 128, 4)] == [64, 128]
    assert [w.scored for w in plan_windows("all", 500, [64, 256], 128, 4)] == [64, 256]


def test_too_little_text_is_refused() -> None:
    with pytest.raises(EvaluationError, match="has 128 tokens, but length 128 needs 129"):
        plan_windows("all", 128, [64, 128], 256, 4)


def test_unknown_mode_and_no_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="fixed_target"):
        plan_windows("sliding", 100, [8], 8, 1)
    with pytest.raises(EvaluationError, match="at least 1"):
        plan_windows("all", 100, [0], 8, 1)
