"""Which layouts there are, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from megadape.errors import ConfigurationError
from megadape.plan.cluster import Cluster
from megadape.plan.layouts import Layout, Refusal, factorings, layouts, settings_for, try_layout
from megadape.plan.run import PlannedRun, load_planned

CONFIGS = Path(__file__).parents[2] / "configs"
CLUSTER = Cluster(nodes=4, gpus_per_node=8, gpu_memory=80)


def load(*overrides: str) -> PlannedRun:
    return load_planned([CONFIGS / "models/350M.yaml"], overrides)[0]


def reason(layout: Layout, *overrides: str, cluster: Cluster = CLUSTER) -> str:
    tried = try_layout(load(*overrides), cluster, layout)
    assert isinstance(tried, Refusal)
    return tried.reason


def test_every_factoring_once() -> None:
    found = list(factorings(12))
    assert len(found) == len(set(found)) == 18  # 12 = 2^2 x 3: six ways to share two twos, three to share a three
    assert all(tp * pp * dp == 12 for tp, pp, dp in found)


def test_choices_that_change_nothing_are_left_out() -> None:
    found = list(layouts(Cluster(1, 2, 80)))
    assert len(found) == len(set(found))
    assert {(x.tp, x.pp, x.dp) for x in found} == {(1, 1, 2), (1, 2, 1), (2, 1, 1)}
    assert len(found) == 4 + 4 * 3 + 4 * 2  # ZeRO; ZeRO x schedules; ZeRO x sequence


def test_a_possible_layout_gives_settings() -> None:
    tried = try_layout(load(), CLUSTER, Layout(8, 4, 1, 1, True, "1f1b"))
    assert isinstance(tried, PlannedRun)
    parallel = tried.parallel
    assert (parallel.tp, parallel.pp, parallel.zero, parallel.sequence_parallel) == (8, 4, 1, True)


def test_layouts_in_settings_of_the_command_line_are_the_same() -> None:
    layout = Layout(4, 2, 4, 1, True, "interleaved")
    run = load("training.micro_batch_size=8")
    tried = try_layout(run, CLUSTER, layout)
    assert isinstance(tried, PlannedRun)
    assert tried.parallel == load(*layout.overrides()).parallel


@pytest.mark.parametrize(
    ("layout", "overrides", "words"),
    [
        (Layout(16, 1, 2), (), "parallel.tp: 16 would leave the node: it must divide the 8 GPUs of one"),
        (Layout(1, 2, 16, 2), (), "a pipeline (parallel.pp: 2) works with parallel.zero: 1 at most, not 2"),
        (Layout(1, 2, 16, 3), (), "a pipeline (parallel.pp: 2) works with parallel.zero: 1 at most, not 3"),
        (Layout(1, 2, 16, 0), (), "needs parallel.zero: 1, not 0"),
        (
            Layout(1, 1, 32, 1),
            ("training.engine=torch", "parallel.zero=0"),
            "only training.engine: deepspeed shards its optimizer",
        ),
        (Layout(8, 1, 4), ("model.num_heads=4",), "model.num_heads % parallel.tp must be 0, but 4 % 8 = 4"),
        (Layout(8, 1, 4), ("model.ffn_hidden_size=4100",), "model.ffn_hidden_size % parallel.tp must be 0"),
        (Layout(8, 1, 4), ("model.vocab_size=50257",), "model.vocab_size % parallel.tp must be 0, but 50257 % 8 = 1"),
        (Layout(1, 32, 1, 1), (), "every pipeline stage needs a layer: parallel.pp is 32"),
        (Layout(1, 16, 2, 1, False, "interleaved"), (), "16 x 2 = 32, but model.num_layers is 24"),
        (Layout(1, 1, 32), (), "but 256 is no multiple of 32 x 32"),
    ],
)
def test_impossible_layouts_are_refused_with_the_reason(layout: Layout, overrides: tuple[str, ...], words: str) -> None:
    assert words in reason(layout, *overrides)


def test_a_schedule_that_this_many_data_ranks_leave_too_few_micro_batches_for() -> None:
    cluster = Cluster(1, 4, 80)
    words = reason(Layout(1, 2, 2, 1, False, "interleaved"), "training.global_batch_size=448", cluster=cluster)
    assert "interleaved takes micro-batches in rounds of one a stage" in words
    assert "7 micro-batches for parallel.pp: 2" in words


def test_settings_refuse_in_the_words_of_training() -> None:
    layout = Layout(1, 2, 16, 2)
    with pytest.raises(ConfigurationError) as planned:
        settings_for(load(), layout)
    with pytest.raises(ConfigurationError) as trained:
        load("parallel.pp=2", "parallel.zero=2")
    assert str(planned.value) in str(trained.value)


def test_a_cluster_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a cluster's nodes must be a number above 0, but is 0"):
        Cluster(0, 8, 80)


def test_the_slowest_link_counts() -> None:
    assert CLUSTER.bandwidth([0, 7]) == CLUSTER.inside_node
    assert CLUSTER.bandwidth([7, 8]) == CLUSTER.between_nodes
