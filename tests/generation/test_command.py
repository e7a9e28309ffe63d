"""``megadape generate``: from a run folder and prompts to texts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megadape.cli import app
from megadape.config import dump_yaml, load
from megadape.generation import GenerationSettings, News
from megadape.generation.transcript import Transcript, make_visible
from megadape.studies.generate import GenerationRequest, generate_and_write
from megadape.testing import Silent, run_distributed
from megadape.training.launch import train

PROMPTS = ["def main(", "import sys\nimport os", "", "é"]


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = {
        "run_dir": tmp_path_factory.mktemp("generate") / "run",
        "data.prefix": corpus,
        "model": "{num_layers: 2, hidden_size: 16, num_heads: 2}",
        "positions.kind": "kerple_log",
        "mixer": "{kind: dape, hidden: 4}",
        "training": "{steps: 30, sequence_length: 32, global_batch_size: 4, micro_batch_size: 4}",
    }
    run = load([], [f"{key}={value}" for key, value in keys.items()])
    train(run, dump_yaml(run), Silent())
    return run.run_dir


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "more": 1}) + "\n\n" for prompt in PROMPTS))
    return path


def invoke(*arguments: object, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, ["generate", *map(str, arguments)], input=stdin)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_texts_are_shown_as_they_are_written_to_the_file(trained: Path, prompts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/texts.jsonl"
    result = invoke(trained, "--prompts", prompts_file, "--samples", 2, "--max-tokens", 40, "--out", out)
    assert result.exit_code == 0, result.output
    rows = read(out)
    assert [(row["prompt"], row["sample"]) for row in rows] == [(p, s) for p in PROMPTS for s in range(2)]
    assert result.stdout == "\n".join(row["prompt"] + row["text"] + "\n" for row in rows)
    for row in rows:
        assert row["reason"] in ("length", "end_of_document")
        assert len(row["tokens"]) == 40 or row["tokens"][-1] == 256
    plain = invoke(trained, PROMPTS[0], "--max-tokens", 40, "--no-echo")
    assert plain.stdout == rows[0]["text"] + "\n"


def test_lines_of_standard_input_are_prompts(trained: Path) -> None:
    given = invoke(trained, "one", "", "two", "--max-tokens", 20, "--greedy")
    assert given.exit_code == 0, given.output
    assert invoke(trained, "--max-tokens", 20, "--greedy", stdin="one\n\ntwo\n").stdout == given.stdout
    assert invoke(trained, "--max-tokens", 20, "--temperature", 0, stdin="one\r\n\r\ntwo").stdout == given.stdout


def test_options_reach_the_texts(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "texts.jsonl"
    options = (
        "--max-tokens",
        60,
        "--top-k",
        20,
        "--top-p",
        0.9,
        "--repetition-penalty",
        1.1,
        "--seed",
        4,
        "--out",
        out,
    )
    assert invoke(trained, "def", *options).exit_code == 0
    text = read(out)[0]["text"]
    assert invoke(trained, "def", *options, "--stop", text[8:10]).exit_code == 0
    assert read(out)[0]["text"] == text[: text.find(text[8:10])]
    assert read(out)[0]["reason"] == "stop"
    assert invoke(trained, "def", *options, "--stop", text[8:10], "--keep-stop").exit_code == 0
    assert read(out)[0]["text"] == text[: text.find(text[8:10]) + 2]


def test_mistakes_are_named(trained: Path, corpus: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"prompt": "a"}\n{"text": "a"}\n')
    number = tmp_path / "number.jsonl"
    number.write_text('{"prompt": 3}\n')
    empty = tmp_path / "empty.txt"
    empty.touch()
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"good\nb\xe9d\n")
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    (moved / "settings.yaml").write_text((trained / "settings.yaml").read_text().replace(str(corpus), "gone/text"))
    bare = tmp_path / "bare"
    shutil.copytree(trained / "checkpoints", bare / "checkpoints")
    for arguments, said in (
        ((tmp_path / "nothing", "x"), "does not exist: train it first"),
        ((trained, "x", "--top-k", 0), "top_k"),
        ((trained, "x", "--greedy", "--temperature", 0.5), "choose one"),
        ((trained, "x", "--prompts", lines), "in one place"),
        ((trained, "--prompts", lines), 'line 2: not an object with "prompt"'),
        ((trained, "--prompts", number), 'line 1: "prompt" must be a text, not 3'),
        ((trained, "--prompts", empty), "has no prompts"),
        ((trained, "--prompts", latin), "line 2: not UTF-8"),
        ((trained, "--prompts", tmp_path / "missing"), "cannot read the prompts"),
        ((trained,), "standard input has no prompts"),
        ((moved, "x"), "give --data PREFIX of"),
        ((bare, "x"), "has no settings.yaml"),
    ):
        result = invoke(*arguments, stdin="")
        assert result.exit_code == 2, arguments
        assert said in result.stderr, result.stderr
    for folder in (moved, bare):
        assert invoke(folder, "x", "--data", corpus, "--max-tokens", 3).exit_code == 0


def write_on_ranks(run_dir: Path, out: Path) -> str:
    shown: list[str] = []
    settings = GenerationSettings(max_tokens=12, samples=2, batch_size=3)
    generate_and_write(GenerationRequest(run_dir, settings, PROMPTS, out=out), shown.append)
    return "".join(shown)


def test_two_ranks_write_what_one_writes(trained: Path, tmp_path: Path) -> None:
    alone = write_on_ranks(trained, tmp_path / "alone.jsonl")
    first, second = run_distributed(2, write_on_ranks, trained, tmp_path / "ranks.jsonl", timeout=120)
    assert (first, second) == (alone, "")
    assert (tmp_path / "ranks.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_texts_are_shown_in_the_order_of_their_prompts() -> None:
    shown: list[str] = []
    transcript = Transcript(["A", "B"], 4, 2, shown.append)
    for prompt, sample, text, ended in (
        (6, 0, "c", False),
        (5, 1, "b", True),
        (5, 0, "a", False),
        (5, 0, "a", True),
        (6, 1, "d", True),
        (6, 0, "c", True),
    ):
        transcript.tell(News(prompt, sample, text, ended), first=5)
    assert "".join(shown) == "Aaa\n\nAb\n\nBcc\n\nBd\n"
    assert shown[:3] == ["A", "a", "a"]  # as it comes


def test_a_terminal_is_not_commanded_by_a_text() -> None:
    assert make_visible("a\x1b[2J\tb\né\x07\x9b") == "a\\x1b[2J\tb\né\\x07\\x9b"


def test_a_prompt_a_line_in_a_terminal(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    os.write(leader, b"one\ntwo\n\x04")
    with os.fdopen(follower) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        shown: list[str] = []
        generate_and_write(GenerationRequest(trained, GenerationSettings(max_tokens=8)), shown.append)
    os.close(leader)
    both: list[str] = []
    generate_and_write(
        GenerationRequest(trained, GenerationSettings(max_tokens=8), ["one", "two"], echo=False), both.append
    )
    assert "".join(shown) == "".join(both).replace("\n\n", "\n")


def test_what_was_finished_is_kept_when_the_rest_is_not_written(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second answer is interrupted; an older file is untouched, and of the new one there are whole lines."""
    out = tmp_path / "texts.jsonl"
    out.write_text("older\n")
    settings, shown = GenerationSettings(max_tokens=8, batch_size=1, ignore_end=True), list[str]()

    def interrupt(text: str) -> None:
        shown.append(text)
        if "B" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_and_write(GenerationRequest(trained, settings, ["a", "B"], out=out), interrupt)
    assert out.read_text() == "older\n"
    assert [row["prompt"] for row in read(tmp_path / "texts.jsonl.partial")] == ["a"]
    assert "1 text was finished" in caplog.text
    generate_and_write(GenerationRequest(trained, settings, ["a", "b"], out=out), lambda text: None)
    assert [row["prompt"] for row in read(out)] == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.jsonl"]


def test_a_device_is_written_to_and_not_replaced(trained: Path) -> None:
    before = Path("/dev/null").stat().st_rdev
    assert invoke(trained, "x", "--max-tokens", 2, "--out", "/dev/null").exit_code == 0
    assert Path("/dev/null").stat().st_rdev == before
    full = invoke(trained, "x", "--max-tokens", 2, "--out", "/dev/full")
    assert (full.exit_code, "/dev/full cannot be written: No space left" in full.stderr) == (2, True)
