"""Files layer left to right, overrides lie on top, and every value knows who set it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from example_settings import Alibi, Dape, DapeV2, Fire, Model, Rope, Run
from hypothesis import given
from hypothesis import strategies as st

from megadape.config import DEFAULT, OVERRIDE, Origin, Overlay, load, load_with_origins
from megadape.config.layers import merge
from megadape.config.slots import ANYTHING
from megadape.config.tree import Node, Plain
from megadape.errors import ConfigurationError

WriteFile = Callable[[str, str], str]
BASE = "run_dir: runs/a\n"


def test_later_files_lie_over_earlier_ones(write_file: WriteFile) -> None:
    first = write_file("a.yaml", BASE + "model:\n  num_layers: 2\n  hidden_size: 64\nseed: 1\n")
    second = write_file("b.yaml", "model:\n  num_layers: 8\n")
    settings = load([first, Path(second)], ["seed=7"], root=Run)
    assert settings.model == Model(num_layers=8, hidden_size=64)
    assert settings.seed == 7
    assert settings.run_dir == Path("runs/a")


def test_lists_replace(write_file: WriteFile) -> None:
    first = write_file("a.yaml", BASE + "training:\n  betas: [0.5, 0.6]\n")
    second = write_file("b.yaml", "training:\n  betas: [0.7, 0.8]\n")
    assert load([first, second], root=Run).training.betas == [0.7, 0.8]


def test_another_kind_starts_afresh(write_file: WriteFile) -> None:
    rope = write_file("rope.yaml", BASE + "positions:\n  kind: rope\n  base: 500\nmixer: {kind: dape, hidden: 8}\n")
    fire = write_file("fire.yaml", "positions:\n  kind: fire\n")
    assert load([rope, fire], root=Run).positions == Fire()
    assert load([rope], ["positions.kind=alibi", "mixer.kind=dape_v2"], root=Run).positions == Alibi()
    assert load([rope], ["mixer.kind=dape_v2"], root=Run).mixer == DapeV2()
    assert load([rope], ["mixer=null"], root=Run).mixer is None


def test_the_same_kind_merges(write_file: WriteFile) -> None:
    rope = write_file("rope.yaml", BASE + "positions:\n  kind: rope\n  base: 500\n")
    assert load([rope], ["positions.kind=rope", "positions.shared=3"], root=Run).positions == Rope(base=500, shared=3)
    wide = write_file("wide.yaml", BASE + "positions: {kind: fire, width: 8}\n")
    assert load([wide], ["positions.kind=fire_wide"], root=Run).positions == Fire(kind="fire_wide", width=8)


def test_a_kind_that_is_not_named_is_the_default(write_file: WriteFile) -> None:
    bare = write_file("bare.yaml", BASE + "positions:\n  base: 500\n")
    loaded = load_with_origins([bare], root=Run)
    assert loaded.settings.positions == Rope(base=500)
    assert loaded.origins["positions", "kind"] == DEFAULT
    assert load([bare], ["positions.kind=alibi"], root=Run).positions == Alibi()


def test_the_order_of_overrides_does_not_matter(write_file: WriteFile) -> None:
    path = write_file("a.yaml", BASE + "positions: {kind: rope, base: 5}\n")
    overrides = ["positions.width=9", "positions.kind=fire"]
    assert load([path], overrides, root=Run).positions == Fire(width=9)
    assert load([path], overrides[::-1], root=Run).positions == Fire(width=9)
    # unless one override takes back another
    assert load([path], ["positions={kind: fire, width: 9}", "positions.kind=alibi"], root=Run).positions == Alibi()


def test_a_kind_that_is_no_tag_only_replaces(write_file: WriteFile) -> None:
    path = write_file("a.yaml", BASE + "training:\n  schedule: {kind: cosine, warmup: 10}\n")
    schedule = load([path], ["training.schedule.kind=linear"], root=Run).training.schedule
    assert (schedule.kind, schedule.warmup) == ("linear", 10)


def test_override_values_are_yaml(write_file: WriteFile) -> None:
    path = write_file("a.yaml", BASE)
    overrides = [
        "training.learning_rate=1e-3",
        "training.betas=[0.8, .9]",
        "data={prefix: d, sources: [{prefix: s, weight: 2}]}",
        "notes.equation=a=b",
        'training.time_limit="5"',
        " seed = 3 ",
    ]
    settings = load([path], overrides, root=Run)
    assert settings.training.learning_rate == 0.001
    assert settings.training.betas == [0.8, 0.9]
    assert settings.data is not None
    assert settings.data.sources[0].weight == 2
    assert settings.notes == {"equation": "a=b"}
    assert settings.training.time_limit == "5"
    assert settings.seed == 3


def test_origins(write_file: WriteFile) -> None:
    first = write_file("a.yaml", BASE + "model:\n  num_layers: 2\n  num_heads: 2\n")
    second = write_file("b.yaml", "\nmodel: {num_heads: 8}\ndata:\n  prefix: d\n  sources:\n    - prefix: x\n")
    origins = load_with_origins([first, second], ["seed=2"], root=Run).origins
    assert origins["run_dir",] == Origin("a.yaml", 1)
    assert origins["model", "num_layers"] == Origin("a.yaml", 3)
    assert origins["model", "num_heads"] == Origin("b.yaml", 2)
    assert origins["data", "sources", 0, "prefix"] == Origin("b.yaml", 6)
    assert origins["data", "sources", 0, "weight"] == DEFAULT
    assert origins["seed",] == OVERRIDE
    assert origins["model", "hidden_size"] == DEFAULT


def test_nothing_but_overrides() -> None:
    assert load([], ["run_dir=x", "mixer={kind: dape}"], root=Run) == Run(run_dir=Path("x"), mixer=Dape())


trees = st.recursive(
    st.integers(-(2**63) + 1, 2**63 - 1) | st.lists(st.integers(-(2**63) + 1, 2**63 - 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


def node(value: Plain) -> Node:
    held = {key: node(child) for key, child in value.items()} if isinstance(value, dict) else value
    return Node(held, DEFAULT)  # type: ignore[arg-type]


@given(trees, trees)
def test_merging_keeps_the_upper_tree_and_adds_the_lower(base: Plain, top: Plain) -> None:
    def expected(low: Plain, high: Plain) -> Plain:
        if not isinstance(low, dict) or not isinstance(high, dict):
            return high
        shared = {key: expected(low[key], high[key]) if key in low else high[key] for key in high}
        return {**low, **shared}

    merged = merge(node(base), node(top), ANYTHING)
    assert merged == node(expected(base, top))


@given(trees, trees)
def test_laying_the_same_layer_twice_changes_nothing(base: Plain, top: Plain) -> None:
    once = merge(node(base), node(top), ANYTHING)
    assert merge(once, node(top), ANYTHING) == once


@pytest.mark.parametrize(
    ("override", "start", "remedy"),
    [
        ("model.num_layers", "--set model.num_layers: there is no equals sign", "--set key.path=value"),
        ("=3", "--set =3: what stands before the equals sign is no key path", "--set key.path=value"),
        ("a..b=3", "--set a..b=3: what stands", "--set key.path=value"),
        ("data.sources[0]=3", "--set data.sources[0]=3: what stands", "--set key.path=value"),
        ("seed=", "--set seed=: there is no value", "--set seed=null"),
        ("seed=[1", "--set seed=[1: the value is no YAML", "put text in quotes"),
        ("run_dir=a: b: c", "--set run_dir=a: b: c: the value is no YAML", "put text in quotes"),
        ("run_dir=run #3", '--set run_dir=run #3: the value ends before "#3"', "'run_dir=\"run #3\"'"),
        ("notes={a: x, a: y}", "--set notes.a: the key is given twice", "keep one"),
        ("notes={1: x}", "--set notes: a key must be text, not 1", 'put it in quotes: "1"'),
    ],
)
def test_malformed_overrides(write_file: WriteFile, override: str, start: str, remedy: str) -> None:
    path = write_file("a.yaml", BASE)
    with pytest.raises(ConfigurationError) as error:
        load([path], [override], root=Run)
    assert str(error.value).startswith(start)
    assert remedy in str(error.value)


def test_importing_the_package_is_light() -> None:
    code = "import sys, megadape.config; sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_that_are_no_file_lie_between_files_and_name_their_place(tmp_path: Path) -> None:
    first, last = tmp_path / "first.yaml", tmp_path / "last.yaml"
    first.write_text("seed: 1\nrun_dir: r\ndata: {prefix: p}\n")
    last.write_text("model: {num_heads: 2}\n")
    shape = {"num_layers": 1, "hidden_size": 8, "num_heads": 4}
    steps = {"steps": 1, "sequence_length": 8, "global_batch_size": 1, "micro_batch_size": 1}
    between = Overlay({"seed": 2, "model": shape, "training": steps}, "study.yaml (base.set)")
    loaded = load_with_origins([first, between, last])
    assert (loaded.settings.seed, loaded.settings.model.num_heads) == (2, 2)
    assert str(loaded.origins["seed",]) == "study.yaml (base.set)"
    with pytest.raises(ConfigurationError, match=r"study.yaml \(base.set\): sead: unknown key; did you mean seed"):
        load_with_origins([first, Overlay({"sead": 2}, "study.yaml (base.set)"), last])
