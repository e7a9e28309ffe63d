"""Steps timed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megadape.model import GPT, count_token_flops
from megadape.plan.cluster import Cluster
from megadape.plan.communication import Traffic
from megadape.plan.layouts import Layout
from megadape.plan.run import load_planned
from megadape.plan.speed import axis_bandwidths, estimate_speed, stage_flops

CONFIGS = Path(__file__).parents[2] / "configs"
CLUSTER = Cluster(2, 4, 80, flops=1e12, inside_node=1e9, between_nodes=1e8)


def test_a_step_by_hand() -> None:
    """Two stages of two tensor-parallel ranks, the second twice as heavy; four micro-batches, one idle pass."""
    traffic = [
        [Traffic("x", "all-reduce", "tensor", 4e6), Traffic("y", "send", "pipeline", 4e6)],
        [Traffic("x", "all-reduce", "tensor", 4e6), Traffic("z", "all-reduce", "data", 2e6)],
    ]
    speed = estimate_speed(
        CLUSTER,
        Layout(2, 2, 2, 1),
        stage_flops=[1e6, 2e6],
        traffic=traffic,
        micro_batch_tokens=1000,
        micro_batches=4,
        idle=1,
        token_flops=3e6,
    )
    # stage 0: .5 ms of compute, 4 ms in its node, 40 ms to the other node, over 4 micro-batches
    once = 1000 * 1e6 / 2e12 + (4e-3 + 40e-3) / 4
    data = 2e6 / 1e9
    assert speed.step_seconds == pytest.approx(5 * once + data)
    assert speed.bubble_seconds == pytest.approx(once)
    assert speed.compute_seconds + speed.communication_seconds + speed.bubble_seconds == pytest.approx(
        speed.step_seconds
    )
    assert speed.tokens_per_second == pytest.approx(1000 * 4 * 2 / speed.step_seconds)
    assert speed.model_flops_per_second == pytest.approx(speed.tokens_per_second * 3e6 / 8)


def test_links_of_each_axis() -> None:
    fast, slow = CLUSTER.inside_node, CLUSTER.between_nodes
    assert axis_bandwidths(Layout(4, 1, 2), CLUSTER) == {"tensor": fast, "pipeline": fast, "data": slow}
    assert axis_bandwidths(Layout(2, 2, 2), CLUSTER) == {"tensor": fast, "pipeline": slow, "data": fast}
    assert axis_bandwidths(Layout(1, 8, 1), CLUSTER)["pipeline"] == slow


def test_stages_share_all_operations() -> None:
    run, architecture = load_planned([CONFIGS / "models/350M.yaml", CONFIGS / "positions/dape_kerple.yaml"], [])
    with torch.device("meta"):
        flops = count_token_flops(GPT(architecture), run.training.sequence_length)
    parts = [stage_flops(run.model, flops, layers, last=layers == 5, checkpointing=False) for layers in (9, 10, 5)]
    assert sum(parts) == pytest.approx(flops.total)
    head = 6 * 50304 * 1024
    assert stage_flops(run.model, flops, 5, last=True, checkpointing=True) - head == pytest.approx(
        4 / 3 * (parts[2] - head)
    )
