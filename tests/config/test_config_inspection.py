"""show, diff, schema and dump: what is written is read back to the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from example_settings import Alibi, Dape, DapeV2, Data, Engine, Fire, Model, Rope, Run, Schedule, Source, Training
from hypothesis import given
from hypothesis import strategies as st

from megadape.config import ABSENT, diff, dump_yaml, load, load_with_origins, render_diff, schema, show
from megadape.config.tree import Origin
from megadape.config.yaml_strict import parse
from megadape.config.yaml_write import scalar_text

WriteFile = Callable[[str, str], str]

tricky = st.sampled_from(
    ["", "1e-3", "010", "yes", "null", "~", "12:30:00", "a: b", "# no", "- x", "é ☃ 𝄞", "\x85\u2028\ufeff", "...", "<<"]
)
texts = tricky | st.text()
paths = st.builds(Path, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
positive = st.integers(1, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
fraction = st.floats(0, 1, exclude_max=True)
above_zero = st.floats(0, exclude_min=True, allow_infinity=False)
at_least_zero = st.floats(0, allow_infinity=False)
models = st.builds(Model, num_layers=positive, hidden_size=st.integers(1, 99).map(lambda n: 4 * n), dropout=fraction)
sources = st.builds(Source, prefix=paths, weight=at_least_zero)
runs = st.builds(
    Run,
    run_dir=paths,
    seed=st.integers(-(2**63) + 1, 2**63 - 1),
    data=st.none()
    | st.builds(
        Data,
        prefix=paths,
        sources=st.lists(sources, max_size=3).map(tuple),
        splits=st.tuples(finite, finite, finite),
        weights=st.dictionaries(texts, finite, max_size=3),
    ),
    model=models,
    positions=st.builds(Rope, base=above_zero) | st.builds(Alibi, slope=finite) | st.builds(Fire, width=positive),
    mixer=st.none() | st.builds(Dape, hidden=positive) | st.builds(DapeV2, kernel=positive),
    training=st.builds(
        Training,
        micro_batch=st.sampled_from([1, 2, 4, 8, "auto"]),
        global_batch=st.just(64),
        learning_rate=above_zero,
        betas=st.lists(finite, min_size=2, max_size=2),
        precision=st.sampled_from(["fp32", "bf16"]),
        engine=st.sampled_from(Engine),
        checkpointing=st.booleans(),
        time_limit=st.none() | texts,
        schedule=st.builds(Schedule, warmup=st.integers(0, 10**6)),
    ),
    notes=st.dictionaries(texts, texts, max_size=3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@given(settings=runs)
def test_what_is_dumped_is_loaded(folder: Path, settings: Run) -> None:
    path = folder / "settings.yaml"
    path.write_text(dump_yaml(settings), encoding="utf-8")
    loaded = load_with_origins([path], root=Run)
    assert loaded.settings == settings
    path.write_text(show(loaded), encoding="utf-8")
    assert load([path], root=Run) == settings


@given(a=runs, b=runs)
def test_differences_are_exactly_what_differs(a: Run, b: Run) -> None:
    assert diff(a, a) == []
    assert (diff(a, b) == []) == (dump_yaml(a) == dump_yaml(b))
    there = {difference.key: (difference.value_a, difference.value_b) for difference in diff(a, b)}
    back = {difference.key: (difference.value_b, difference.value_a) for difference in diff(b, a)}
    assert there == back


@given(texts | finite | st.integers(-(2**63) + 1, 2**63 - 1) | st.booleans() | st.none())
def test_scalars_read_back(value: str | float | bool | None) -> None:
    text = scalar_text(value)
    assert "\n" not in text
    parsed = parse(f"[{text}]", lambda mark: Origin("text", mark.line))
    assert parsed.root is not None
    (read,) = parsed.root.plain()  # type: ignore[misc]
    assert read == value
    assert type(read) is type(value)
    assert yaml.safe_load(text) == value  # a reader of YAML 1.1 agrees


def test_show_gives_the_origin_of_each_value(write_file: WriteFile) -> None:
    first = write_file(
        "a.yaml", "run_dir: runs/a\nmodel:\n  num_layers: 4\ndata: {prefix: d, sources: [{prefix: s}]}\n"
    )
    text = show(load_with_origins([first], ["seed=3", "training.learning_rate=1e-5"], root=Run))
    shown = {line.split("#")[0].strip(): line.split("#")[1].strip() for line in text.splitlines() if "#" in line}
    assert shown["num_layers: 4"] == "a.yaml:3"
    assert shown["hidden_size: 64"] == "default"
    assert shown["seed: 3"] == "--set"
    assert shown["learning_rate: 1.0e-05"] == "--set"
    assert shown["- prefix: s"] == "a.yaml:4"
    assert shown["mixer: null"] == "default"
    assert len({line.index("#") for line in text.splitlines() if "#" in line}) == 1


def test_a_long_value_does_not_push_the_other_comments() -> None:
    lines = show(load_with_origins([], [f"run_dir={'x' * 200}"], root=Run)).splitlines()
    assert max(line.index("#") for line in lines[1:] if "#" in line) < 70


def test_diff_of_kinds() -> None:
    a = Run(run_dir=Path("a"), mixer=Dape(hidden=8))
    b = Run(run_dir=Path("a"), positions=Alibi(), seed=1)
    assert diff(a, b) == [
        ("seed", 0, 1),
        ("positions.kind", "rope", "alibi"),
        ("positions.base", 10000.0, ABSENT),
        ("positions.shared", 1, ABSENT),
        ("positions.slope", ABSENT, 0.5),
        ("mixer.kind", "dape", ABSENT),
        ("mixer.hidden", 8, ABSENT),
        ("mixer", ABSENT, None),
    ]
    rendered = render_diff(diff(a, b), "a.yaml", "b.yaml").splitlines()
    assert rendered[0].split() == ["a.yaml", "b.yaml"]
    assert rendered[2].split() == ["positions.kind", "rope", "alibi"]
    assert rendered[-1].split() == ["mixer", "-", "null"]
    assert render_diff([], "a.yaml", "b.yaml") == "a.yaml and b.yaml hold the same settings\n"


def test_schema_documents_and_bounds_every_key() -> None:
    document = schema(Run)
    assert json.loads(json.dumps(document)) == document
    layers = document["$defs"]["Model"]["properties"]["num_layers"]
    assert layers["description"] == "How many blocks."
    assert layers["exclusiveMinimum"] == 0
    assert document["$defs"]["Model"]["additionalProperties"] is False
    assert document["required"] == ["run_dir"]
    assert set(document["properties"]["positions"]["discriminator"]["mapping"]) == {
        "rope",
        "alibi",
        "fire",
        "fire_wide",
    }
