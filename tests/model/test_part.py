"""Layers dealt to stages; a model in parts has the names and the values of the whole."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from megadape.model import Architecture, Part, build_gpt
from megadape.model.part import PositionStreams, deal_evenly
from megadape.model.stages import Chunk, deal_layers, shared_between_stages


def architecture(kind: str, **model: Any) -> Architecture:
    return Architecture.model_validate(
        {
            "model": {"num_layers": 5, "hidden_size": 32, "num_heads": 4, "vocab_size": 64, **model},
            "positions": {"kind": kind},
            "mixer": {"kind": "none"},
            "training_length": 8,
        }
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.data())
def test_a_deal_keeps_the_heaviest_stage_light(weights: list[int], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(weights)))
    deal = deal_evenly(weights, stages)
    assert [layer for stage in deal for layer in stage] == list(range(len(weights)))
    assert len(deal) == stages
    assert all(deal)
    lightest = min(
        max(sum(weights[a:b]) for a, b in zip((0, *cuts), (*cuts, len(weights)), strict=True))
        for cuts in combinations(range(1, len(weights)), stages - 1)
    )
    assert max(sum(weights[layer] for layer in stage) for stage in deal) == lightest


def test_embedding_and_head_weigh_by_parameters_alone() -> None:
    large = architecture("rope", num_layers=6, vocab_size=4096)
    assert [len(stage) for stage in deal_layers(large, 3, "even")] == [2, 2, 2]
    assert [len(stage) for stage in deal_layers(large, 3, "parameters")] == [1, 4, 1]


def test_parts_together_are_the_whole_model() -> None:
    for kind, tied in (("t5", False), ("kerple_log", True), ("learned", False)):
        whole = build_gpt(architecture(kind, tied_embeddings=tied), seed=3).state_dict()
        parts = [
            build_gpt(architecture(kind, tied_embeddings=tied), seed=3, part=part)
            for part in (Part((0, 3), head=False), Part((1,), False, False), Part((2, 4), embedding=False))
        ]
        seen: dict[str, torch.Tensor] = {}
        for part in parts:
            for name, value in part.state_dict().items():
                assert torch.equal(value, whole[name]), name
                assert name not in seen or name in shared_between_stages(part)
                seen[name] = value
        assert seen.keys() == whole.keys()
        held_twice = {
            "t5": {"shared_positions.table": "all"},
            "kerple_log": {},
            "learned": {"shared_positions.table": "all"},
        }
        assert shared_between_stages(parts[1]) == held_twice[kind]
        assert shared_between_stages(parts[0]) == held_twice[kind] | ({"embedding.weight": "ends"} if tied else {})


def test_chunks_one_after_another_are_the_whole_model() -> None:
    for kind in ("randomized_rope", "t5", "learned"):
        shape = architecture(kind)
        tokens = torch.randint(64, (2, 9))
        whole = build_gpt(shape, seed=3).train()
        first, last = (
            build_gpt(shape, seed=3, part=Part((0, 1, 4))).train(),
            build_gpt(shape, seed=3, part=Part((2, 3))).train(),
        )
        for model in (whole, first, last):
            model.position_streams.seed(11)
        chunks = [Chunk(first, (0, 1), True, False), Chunk(last, (2, 3), False, False), Chunk(first, (4,), False, True)]
        for _ in range(2):  # each draws the same positions at every step
            x = tokens[:, :-1]
            for chunk in chunks:
                x = chunk(x)
            assert torch.equal(first.token_losses(x, tokens[:, 1:]).mean(), whole.loss(tokens))


def test_position_streams_go_on_from_their_state() -> None:
    streams, other = PositionStreams(), PositionStreams()
    assert streams.of(0) is None
    assert streams.state() is None
    streams.seed(5)
    for run in (0, 2):
        torch.randperm(10, generator=streams.of(run))
    state = streams.state()
    assert state is not None
    other.load(state)
    assert torch.equal(torch.randperm(10, generator=streams.of(2)), torch.randperm(10, generator=other.of(7)))
