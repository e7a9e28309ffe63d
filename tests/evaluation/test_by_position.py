"""Loss by position: stretches, and means over them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import EvaluationError
from megadape.evaluation.by_position import integer_root, plan_positions, position_edges
from megadape.evaluation.pieces import Worker, measure_all
from megadape.evaluation.results import PositionLosses
from megadape.evaluation.sets import EvaluationText
from megadape.evaluation.settings import EvaluationSettings
from megadape.model import Architecture, build_gpt


@given(st.integers(1, 10**30), st.integers(1, 64))
def test_the_root_is_the_largest_integer_that_is_not_too_large(number: int, degree: int) -> None:
    root = integer_root(number, degree)
    assert root**degree <= number < (root + 1) ** degree


@given(st.integers(1, 1 << 17), st.integers(1, 64))
def test_edges_cut_all_positions_where_it_is_said(length: int, per_doubling: int) -> None:
    edges = position_edges(length, per_doubling)
    assert (edges[0], edges[-1]) == (0, length)
    assert all(first < last for first, last in pairwise(edges))
    said = {integer_root(1 << power, per_doubling) for power in range(per_doubling * length.bit_length() + 1)}
    assert set(edges[1:-1]) == {edge for edge in said if edge < length}


def test_edges_of_two_lengths_are_the_same_as_far_as_both_go() -> None:
    assert position_edges(16, 2) == (0, 1, 2, 4, 5, 8, 11, 16)
    assert position_edges(8192, 4) == position_edges(65536, 4)[: len(position_edges(8192, 4))]


@pytest.mark.parametrize("batch_tokens", [1, 70])
@torch.no_grad()
def test_means_are_those_of_every_prediction(batch_tokens: int) -> None:
    shape = {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "vocab_size": 31}
    architecture = {"model": shape, "positions": {"kind": "alibi"}, "mixer": {"kind": "none"}, "training_length": 8}
    model = build_gpt(Architecture.model_validate(architecture), seed=3).double().eval()
    stream = np.random.default_rng(0).integers(0, 31, 120)
    settings = EvaluationSettings.model_validate(
        {"lengths": (8, 30), "sequences": 3, "positions": {"stretches_per_doubling": 2}, "batch_tokens": batch_tokens}
    )
    plan = plan_positions(EvaluationText(stream, np.ones(31)), settings)
    found = plan.collect(measure_all(plan.series(), Worker(model, torch.device("cpu"))))
    rows = torch.from_numpy(
        np.stack([stream[end - 30 : end + 1] for end in (30, 60, 90)])
    )  # 3 x 30 + 1 tokens are read
    losses = -model(rows[:, :-1]).log_softmax(-1).gather(2, rows[:, 1:, None])[..., 0]
    edges = position_edges(30, 2)
    wanted = [losses[:, first:last].mean().item() for first, last in pairwise(edges)]
    assert found == PositionLosses(30, edges, pytest.approx(wanted, rel=1e-6), 3)  # type: ignore[arg-type]
    assert PositionLosses.from_json({**vars(found)}) == found


def test_too_little_text_is_refused() -> None:
    settings = EvaluationSettings.model_validate({"lengths": (8,), "positions": {"length": 64}})
    with pytest.raises(EvaluationError, match="has 40 tokens, but length 64 needs 65"):
        plan_positions(EvaluationText(np.zeros(40, np.int64), np.ones(1)), settings)
