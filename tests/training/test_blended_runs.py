"""Runs on a blend: resumed bit for bit, validated and evaluated on each dataset, refused when the blend changes; and
data that several ranks open together."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from megadape.config import dump_yaml, load
from megadape.console import Bars, open_console
from megadape.data import build_blend_index, preprocess_files
from megadape.data.blend_order import normalise
from megadape.errors import CheckpointError, ConfigurationError, DataError, EvaluationError, MegadapeError
from megadape.parallel.mesh import Place, make_mesh
from megadape.studies.evaluate import EvaluationRequest, HeadsRequest, draw_run_heads, evaluate_and_write
from megadape.testing import run_distributed
from megadape.training.data import open_data
from megadape.training.launch import train

STEPS, BATCH = 12, 8
KEPT = ("step", "loss", "grad_norm", "consumed_samples", "validation_loss", "validation_loss/text", "validation_loss/b")


class Heard:
    """A reporter that keeps what it heard."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, row: Any, steps: int) -> None:
        pass


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second dataset of the corpus's tokenizer."""
    prefix = tmp_path_factory.mktemp("other") / "more"
    files = [Path(sysconfig.get_paths()["stdlib"]) / name for name in ("argparse.py", "heapq.py", "textwrap.py")]
    preprocess_files(files, prefix, tokenizer="byte", append_eod=True, text_suffixes=(".py",))
    return prefix


def overrides(run_dir: Path, corpus: Path, other: Path, weights: str = "0.7 0.3", **more: Any) -> list[str]:
    first, second = weights.split()
    own = f"{{prefix: {other}, weight: {second}, split: '60,40', name: b}}"
    keys = {
        "run_dir": run_dir,
        "data.blend": f"[{{prefix: {corpus}, weight: {first}}}, {own}]",
        "data.split": "80,20",
        "model.num_layers": 3,
        "model.hidden_size": 16,
        "model.num_heads": 2,
        "model.dropout": 0.1,
        "training.steps": STEPS,
        "training.sequence_length": 32,
        "training.global_batch_size": BATCH,
        "training.micro_batch_size": 2,
        "validation.every": 4,
        "validation.sequences": 6,
    } | {key.replace("__", "."): value for key, value in more.items()}
    return [f"{key}={value}" for key, value in keys.items()]


def run(given: list[str], stop: int | None = None) -> Heard:
    heard, settings = Heard(), load([], given)
    train(settings, dump_yaml(settings), heard, stop)
    return heard


def rows(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: row.get(key) for key in KEPT} for row in lines]


@pytest.fixture(scope="module")
def whole(corpus: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Heard]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(overrides(folder, corpus, other))


def test_a_blended_run_says_what_it_reads_and_validates_on_each_dataset(whole: tuple[Path, Heard]) -> None:
    folder, heard = whole
    counts = build_blend_index(normalise(normalise([0.7, 0.3]).tolist()), STEPS * BATCH).counts.tolist()
    for name, count in zip(("text", "b"), counts, strict=True):
        (sentence,) = [text for text in heard.messages if text.startswith(f"{name}: ")]
        assert sentence.startswith(f"{name}: {count} of {STEPS * BATCH} ({100 * count / STEPS / BATCH:.4g} %)")
    validated = [row for row in rows(folder) if row["validation_loss"] is not None]
    assert [row["step"] for row in validated] == [4, 8, 12]
    for row in validated:
        mean = 0.7 * row["validation_loss/text"] + 0.3 * row["validation_loss/b"]
        assert row["validation_loss"] == pytest.approx(mean, rel=1e-12)
        assert row["validation_loss/text"] != row["validation_loss/b"]


@pytest.mark.parametrize(
    "again", [{}, pytest.param({"data__loader__workers": 1}, marks=pytest.mark.slow)], ids=["thread", "process"]
)
def test_stopped_and_resumed_equals_whole_bit_for_bit(
    again: dict[str, Any], corpus: Path, other: Path, whole: tuple[Path, Heard], tmp_path: Path
) -> None:
    run(overrides(tmp_path, corpus, other), stop=5)
    assert len(rows(tmp_path)) == 5
    run(overrides(tmp_path, corpus, other, **again))  # read by whom, changes nothing
    assert rows(tmp_path) == rows(whole[0])


def test_another_blend_is_another_run(corpus: Path, other: Path, tmp_path: Path) -> None:
    run(overrides(tmp_path, corpus, other), stop=1)
    with pytest.raises(CheckpointError, match=r"data\.blend\[0\]\.weight is 0\.7 there and 0\.6 here"):
        run(overrides(tmp_path, corpus, other, "0.6 0.4"))
    with pytest.raises(CheckpointError, match=r"data\.blend\[0\]\.index is .* there and None here"):
        run([*overrides(tmp_path, corpus, other), "data.blend=null", f"data.prefix={corpus}"])
    swapped = f"[{{prefix: {other}, weight: 3, split: '60,40', name: b}}, {{prefix: {corpus}, weight: 7}}]"
    with pytest.raises(CheckpointError, match=r"belongs to another run"):
        run([*overrides(tmp_path, corpus, other), f"data.blend={swapped}"])
    # the same shares, otherwise written, under another name: the same blend
    renamed = f"[{{prefix: {corpus}, weight: 70}}, {{prefix: {other}, weight: 30, split: '60,40', name: c}}]"
    run([*overrides(tmp_path, corpus, other), f"data.blend={renamed}"], stop=1)


def test_a_dataset_read_too_often_is_named_before_the_first_step(corpus: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"of .*text \(data\.blend\[0\]\) 0\.\d\d times, but max_epochs is 0\.001"):
        run(overrides(tmp_path, corpus, other, data__max_epochs=0.001, training__steps=300))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_vocabulary_is_that_of_the_datasets_that_tell_theirs(corpus: Path, other: Path, tmp_path: Path) -> None:
    for ending in (".bin", ".idx"):
        (tmp_path / f"foreign{ending}").write_bytes(corpus.with_name(corpus.name + ending).read_bytes())
    given = overrides(tmp_path / "run", tmp_path / "foreign", other, training__steps=1, validation__every=0)
    run(given)
    with pytest.raises(ConfigurationError, match=r"model\.vocab_size is 100, but the tokenizer of .*more has 257"):
        run([*given, "model.vocab_size=100"])


def test_evaluation_reads_each_dataset_or_the_one_that_is_named(whole: tuple[Path, Heard], other: Path) -> None:
    folder, bars = whole[0], Bars(open_console(), None)
    few: dict[str, Any] = {"lengths": "32,64", "mode": "last_k", "sequences": 2}
    table, written = evaluate_and_write(EvaluationRequest(folder, "valid", **few), bars)
    assert [path.name for path in written if path.suffix == ".json"] == [
        f"last_k-step-{STEPS}-text.json",
        f"last_k-step-{STEPS}-b.json",
    ]
    assert [str(cell) for cell in table.columns[0].cells] == ["text", "text", "b", "b"]
    both = json.loads(written[3].read_text())
    _, named = evaluate_and_write(EvaluationRequest(folder, "valid", Path("b"), **few), bars)
    alone = json.loads(named[0].read_text())
    assert [row["perplexity"] for row in alone["results"]] == [row["perplexity"] for row in both["results"]]
    _, elsewhere = evaluate_and_write(EvaluationRequest(folder, "train", other, **few), bars)
    assert all(path.is_file() for path in [*written, *named, *elsewhere])
    assert all(path.is_file() for path in draw_run_heads(HeadsRequest(folder, "valid", None, None, None, 16)))
    with pytest.raises(EvaluationError, match=r"the test split of .*text .* is empty"):
        evaluate_and_write(EvaluationRequest(folder, "test", **few), bars)


def open_and_read(given: dict[str, list[str]], other_seed: list[str]) -> list[str]:
    """What the data are that this rank opens, or the error's words; the second rank must not build the first ones."""
    from megadape.data import build

    place, builder = Place(dist.get_rank(), dist.get_world_size()), build.build_sample_index
    mesh, found = make_mesh(place, torch.device("cpu"), 1, 1), []

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("only the first rank of a node builds")

    for name, own in given.items():
        build.build_sample_index = refuse if name == "good" and mesh.rank else builder
        more = other_seed if name == "differing" and mesh.rank else []
        try:
            found.append(open_data(load([], own + more), mesh).fingerprint())
        except MegadapeError as error:
            found.append(str(error))
    return found


def test_ranks_open_their_data_together_or_not_at_all(corpus: Path, other: Path, tmp_path: Path) -> None:
    good = overrides(tmp_path / "run", corpus, other, data__cache_dir=tmp_path / "cache")
    given = {
        "good": good,
        "missing": overrides(tmp_path / "run", corpus, tmp_path / "gone"),
        "unwritable": overrides(tmp_path / "run", corpus, other, data__cache_dir=corpus.with_suffix(".bin")),
        "differing": good,
        "again": good,
    }
    first, second = run_distributed(2, open_and_read, given, ["seed=5"])
    assert first[0] == second[0] == first[4] == second[4]
    assert len(first[0]) == 64
    assert first[1].startswith(f"there is no {tmp_path / 'gone.idx'}")
    assert second[1] == f"the data cannot be opened, since rank 0 cannot: {first[1]}"
    assert "the index cache is not writable" in first[2]
    assert first[2] in second[2]
    assert first[3] == second[3]
    assert first[3].startswith("rank 1 would read other data than rank 0: the files of a dataset differ between nodes")


def train_rank(given: list[str], blind: int) -> None:
    """Train on this rank; one rank has no eyes."""
    if dist.get_rank() == blind:
        from megadape.data import TokenSamples

        def refuse(*_: Any) -> Any:
            raise AssertionError("this stage needs no tokens")

        TokenSamples.__getitem__ = refuse  # type: ignore[method-assign]
    run(given)


@pytest.mark.usefixtures("all_cores")
def test_a_stage_in_the_middle_reads_nothing(corpus: Path, other: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"training__steps": 3, "validation__every": 0, "model__dropout": 0}
    run(overrides(tmp_path / "one", corpus, other, **few))
    run_distributed(3, train_rank, overrides(tmp_path / "three", corpus, other, parallel__pp=3, **few), 1)
    alone, staged = rows(tmp_path / "one"), rows(tmp_path / "three")
    assert [row["loss"] for row in staged] == pytest.approx([row["loss"] for row in alone], rel=1e-5)
