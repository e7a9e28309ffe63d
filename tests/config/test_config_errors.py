"""Every mistake at once, with file, line, key, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
from example_settings import Run
from pydantic import AfterValidator, Field

from megadape.config import load
from megadape.errors import ConfigurationError
from megadape.settings import Settings

WriteFile = Callable[[str, str], str]


def mistakes(paths: list[str], overrides: list[str] | None = None, root: type[Settings] = Run) -> list[str]:
    with pytest.raises(ConfigurationError) as error:
        load(paths, overrides or [], root=root)
    lines = str(error.value).split("\n")
    if len(lines) > 1:
        assert lines[0] == f"{len(lines) - 1} mistakes in the settings:"
        lines = [line.removeprefix("  ") for line in lines[1:]]
    return lines


def test_all_mistakes_of_all_layers_in_the_order_of_the_files(write_file: WriteFile) -> None:
    first = write_file(
        "first.yaml",
        """\
run_dir: runs/a
num_layers: 4
model:
  num_layers: 0
  hidden_sise: 64
  dropout: 1.5
positions:
  kind: rop
training:
  precision: fp61
  engine: torhc
  steps: 1e5
  micro_batch: many
  checkpointing: yes
  betas: [0.9]
  seed: 1
""",
    )
    second = write_file(
        "second.yaml",
        """\
data:
  sources:
    - prefix: a
      wieght: 2
    - weight: -1
  splits: [1, 2]
seed: 010
seed: 3
modle: 1
model.dropout: 3
""",
    )
    assert mistakes([first, second], ["model.num_heads=three", "training.schedule.kind=cos", "oops"]) == [
        "first.yaml:2: num_layers: unknown key; did you mean model.num_layers?",
        "first.yaml:4: model.num_layers: must be a whole number of at least 1 (got 0)",
        "first.yaml:5: model.hidden_sise: unknown key; did you mean model.hidden_size?",
        "first.yaml:6: model.dropout: must be a number of at least 0 and below 1 (got 1.5)",
        'first.yaml:8: positions.kind: must be one of rope, alibi, fire, fire_wide (got "rop"); did you mean rope?',
        'first.yaml:10: training.precision: must be one of fp32, bf16, fp16 (got "fp61"); did you mean fp16?',
        'first.yaml:11: training.engine: must be one of torch, deepspeed (got "torhc"); did you mean torch?',
        "first.yaml:12: training.steps: must be a whole number of at least 1 (got 100000.0); write 100000",
        'first.yaml:13: training.micro_batch: must be a whole number of at least 1, or auto (got "many")',
        'first.yaml:14: training.checkpointing: must be true or false (got "yes"); write true',
        "first.yaml:15: training.betas: must be a list of exactly 2, each item a number (got [0.9])",
        "first.yaml:16: training.seed: unknown key; did you mean seed?",
        "second.yaml:1: data.prefix: required key is missing; add `prefix: ...` under data "
        "or give --set data.prefix=...; it must be a path",
        "second.yaml:4: data.sources[0].wieght: unknown key; did you mean data.sources[0].weight?",
        "second.yaml:5: data.sources[1].weight: must be a number of at least 0 (got -1)",
        "second.yaml:5: data.sources[1].prefix: required key is missing; add `prefix: ...` under data.sources[1]; "
        "it must be a path",
        "second.yaml:6: data.splits: must be a list of 3: a number, then a number, then a number (got [1, 2])",
        'second.yaml:7: seed: must be a whole number (got "010"); write 10',
        "second.yaml:8: seed: the key is given twice, first at second.yaml:7; keep one",
        "second.yaml:9: modle: unknown key; did you mean model?",
        "second.yaml:10: model.dropout: in a file keys are nested, not joined with points; write model: {dropout: ...}",
        "--set oops: there is no equals sign; write it as --set key.path=value, for instance --set model.num_layers=4",
        '--set model.num_heads: must be a whole number of at least 1 and at most 512 (got "three")',
        '--set training.schedule.kind: must be one of cosine, linear (got "cos"); did you mean cosine?',
    ]


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("seed: '5'", 'seed: must be a whole number (got "5"); write 5 without quotes'),
        ("seed: 1_000", 'seed: must be a whole number (got "1_000"); write 1000'),
        ("seed: true", "seed: must be a whole number (got true)"),
        ("run_dir: 5", 'run_dir: must be a path (got 5); put it in quotes: "5"'),
        ("notes: {a: yes, b: 1}", 'notes.b: must be text (got 1); put it in quotes: "1"'),
        ("data: {prefix: p, weights: {a: x}}", 'data.weights.a: must be a number (got "x")'),
        ("data: {prefix: p, weights: 5}", "data.weights: must be a mapping, each value a number (got 5)"),
        ("data: d", 'data: must be a mapping that gives at least prefix or null (got "d")'),
        ("model: 5", "model: must be a mapping with keys such as num_layers, hidden_size, num_heads, dropout (got 5)"),
        ("model:", "model: the section is empty; give it keys or remove the line"),
        ("training: {learning_rate: .inf}", "training.learning_rate: must be a finite number (got .inf)"),
        ("training: {learning_rate: 1e999}", "training.learning_rate: must be a finite number (got .inf)"),
        (
            'training: {learning_rate: "1e-3"}',
            'training.learning_rate: must be a number above 0 (got "1e-3"); write 1e-3 without quotes',
        ),
        (
            "training: {betas: 0.9}",
            "training.betas: must be a list of exactly 2, each item a number (got 0.9); write a list: [0.9]",
        ),
        ("training: {time_limit: 5}", 'training.time_limit: must be text or null (got 5); put it in quotes: "5"'),
        (
            "training: {precision: FP32}",
            'training.precision: must be one of fp32, bf16, fp16 (got "FP32"); did you mean fp32?',
        ),
        ("positions: {kind: null}", "positions.kind: must be one of rope, alibi, fire, fire_wide (got null)"),
        (
            "positions: alibi",
            "positions: must be a mapping whose kind is one of rope, alibi, fire, fire_wide "
            '(got "alibi"); write {kind: alibi}',
        ),
        (
            "positions: {kind: alibi, base: 1}",
            "positions.base: unknown key for alibi (it belongs to rope); the keys of alibi are kind, slope",
        ),
        ("positions: {kind: fire, width: 0}", "positions.width: must be a whole number of at least 1 (got 0)"),
        ("mixer: {hidden: 3}", "mixer.kind: required key is missing; it must be one of dape, dape_v2"),
        ("mixer: {kind: dape, xyzzy: 3}", "mixer.xyzzy: unknown key; the keys here are kind, hidden"),
        ("model: {num-layers: 3}", "model.num-layers: unknown key; did you mean model.num_layers?"),
        ("training: {dropout: 0.1}", "training.dropout: unknown key; did you mean model.dropout?"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_sentence(write_file: WriteFile, yaml: str, problem: str) -> None:
    path = write_file("a.yaml", "run_dir: x\n")
    over = write_file("b.yaml", f"# a comment\n{yaml}\n")
    assert mistakes([path, over]) == [f"b.yaml:2: {problem}"]


def test_missing_without_a_section() -> None:
    assert mistakes([]) == [
        "run_dir: required key is missing; add `run_dir: ...` to a file or give --set run_dir=...; it must be a path"
    ]


def test_a_key_that_could_not_be_read_is_not_missing(write_file: WriteFile) -> None:
    path = write_file("a.yaml", "run_dir: !!binary eA==\n")
    assert mistakes([path]) == [
        "a.yaml:1: run_dir: the tag !!binary is not allowed; write plain values, lists and mappings"
    ]


def test_rules_give_the_section_and_the_origins_of_what_they_name(write_file: WriteFile) -> None:
    path = write_file("a.yaml", "run_dir: x\nmodel:\n  hidden_size: 130\n")
    assert mistakes([path]) == [
        "a.yaml:2: model: hidden_size 130 is not a multiple of num_heads 4 "
        "(model.hidden_size: a.yaml:3; model.num_heads: default)"
    ]
    assert mistakes([path], ["model.num_heads=3"]) == [
        "a.yaml:2: model: hidden_size 130 is not a multiple of num_heads 3 "
        "(model.hidden_size: a.yaml:3; model.num_heads: --set)"
    ]


def test_rules_of_the_root(write_file: WriteFile) -> None:
    path = write_file("a.yaml", "run_dir: x\ntraining:\n  micro_batch: 3\n")
    assert mistakes([path]) == [
        "a.yaml:3: training.global_batch is not a multiple of training.micro_batch "
        "(training.global_batch: default; training.micro_batch: a.yaml:3)"
    ]


def even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class Left(Settings):
    kind: Literal["left"] = "left"
    size: Annotated[int, AfterValidator(even)] = 2


class Right(Settings):
    kind: Literal["right"] = "right"
    text: str = Field("ab", min_length=1, pattern="^a")


Side = Annotated[Left | Right, Field(discriminator="kind")]


class Odd(Settings):
    """Corners that the real classes may come to use."""

    sides: list[Side] = Field(default_factory=list)
    side: Side | Literal["none"] = "none"
    part: Left | int = 3
    named: dict[str, Side] = Field(default_factory=dict)
    step: int = Field(8, multiple_of=8, le=64)


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("sides: [{kind: left, size: 3}]", "sides[0].size: must be even (got 3)"),
        ("sides: [{kind: left}, {kind: up}]", 'sides[1].kind: must be one of left, right (got "up")'),
        ("sides: [{kind: right, text: b}]", 'sides[0].text: must be text that is not empty that matches ^a (got "b")'),
        ("sides: [{size: 3}]", "sides[0].kind: required key is missing; it must be one of left, right"),
        ("side: {kind: left, size: x}", 'side.size: must be a whole number (got "x")'),
        (
            "side: non",
            'side: must be a mapping whose kind is one of left, right, or none (got "non"); did you mean none?',
        ),
        ("part: {size: x}", 'part.size: must be a whole number (got "x")'),
        ("part: x", 'part: must be a mapping with keys such as kind, size, or a whole number (got "x")'),
        (
            "named: {x: {kind: right, size: 3}}",
            "named.x.size: unknown key for right (it belongs to left); the keys of right are kind, text",
        ),
        ("step: 12", "step: must be a whole number of at most 64 and a multiple of 8 (got 12)"),
    ],
)  # fmt: skip
def test_unions_lists_and_validators(write_file: WriteFile, yaml: str, problem: str) -> None:
    assert mistakes([write_file("a.yaml", yaml)], root=Odd) == [f"a.yaml:1: {problem}"]


def test_files_that_cannot_be_read(write_file: WriteFile) -> None:
    write_file("configs/models/demo.yaml", "seed: 1\n")
    write_file("configs/positions/fire.yaml", "seed: 1\n")
    Path("binary.yaml").write_bytes(b"a: 1\nb: \xff\n")
    write_file("list.yaml", "- a\n")
    write_file("text.yaml", "hello\n")
    assert mistakes(
        ["configs/model/demo.yaml", "dmo", "binary.yaml", "list.yaml", "text.yaml", "seed=3", "a.yaml\0"]
    ) == [
        "configs/model/demo.yaml: there is no such settings file; did you mean configs/models/demo.yaml?",
        "dmo: there is no such settings file; did you mean configs/models/demo.yaml?",
        "binary.yaml:2: is not UTF-8 text (byte 8); save the file as UTF-8",
        "list.yaml:1: a settings file must hold keys with values (such as seed: 1), not a list",
        "text.yaml:1: a settings file must hold keys with values (such as seed: 1), not a single value",
        "seed=3: there is no such settings file; if it is a setting, write --set seed=3",
        "a.yaml\0: the settings file cannot be read: embedded null byte",
    ]
    assert mistakes(["configs/models"]) == [
        "configs/models: is a folder, not a settings file; it holds configs/models/demo.yaml"
    ]


def test_a_byte_order_mark_is_no_mistake(write_file: WriteFile) -> None:
    assert load([write_file("a.yaml", "\ufeffrun_dir: x\n")], root=Run).run_dir == Path("x")
