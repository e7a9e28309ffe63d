"""Documents kept apart in training: their end comes from the dataset, every pipeline stage knows them, and a run goes
on with what it began."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from pipelines import Case, alone, check

from megadape.config import load
from megadape.data import load_manifest, preprocess_files
from megadape.data.manifest import manifest_path
from megadape.errors import CheckpointError, ConfigurationError
from megadape.model import Architecture
from megadape.testing import Silent
from megadape.training.identity import check_identity, with_end_of_document
from megadape.training.launch import train

SCHEDULES = ("1f1b", "interleaved", "zero_bubble")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize(("engine", "zero"), [("torch", 0), ("deepspeed", 1)])
def test_every_stage_of_a_pipeline_keeps_the_documents_apart(engine: str, zero: int) -> None:
    kinds = [("kerple_log", "dape", (24, 7)), ("randomized_rope", "none", ())]
    parallel = [{"pp": 2, "schedule": schedule, "zero": zero} for schedule in SCHEDULES]
    cases = [
        Case(kind, mixer, evaluations=lengths, separate=True, engine=engine, parallel=each)
        for each in parallel
        for kind, mixer, lengths in kinds
        if kind == "kerple_log" or engine == "torch"
    ]
    joined = alone(Case("kerple_log", "dape", evaluations=(24, 7)))
    for outcomes in check(2, cases):
        assert outcomes[0].losses != pytest.approx(joined.losses, rel=1e-5)


def architecture(**model: Any) -> Architecture:
    shape = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "vocab_size": 320}
    return Architecture.model_validate(
        {"model": shape | model, "positions": {"kind": "alibi"}, "mixer": {"kind": "none"}, "training_length": 8}
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return preprocess(tmp_path, "ended", append_eod=True)


def preprocess(folder: Path, name: str, *, append_eod: bool) -> Path:
    text = folder / f"{name}.txt"
    text.write_text("a small text\n")
    preprocess_files([text], folder / name, tokenizer="byte", append_eod=append_eod)
    return folder / name


def test_the_end_is_the_datasets(dataset: Path) -> None:
    known = with_end_of_document(architecture(documents="separate"), [dataset])
    assert known.model.end_of_document == load_manifest(dataset).tokenizer.eod
    given = architecture(documents="separate", end_of_document=10)
    assert with_end_of_document(given, [dataset]) == given
    assert with_end_of_document(architecture(), [dataset]) == architecture()


def test_a_dataset_that_does_not_say_is_refused(tmp_path: Path, dataset: Path) -> None:
    endless = preprocess(tmp_path, "endless", append_eod=False)
    with pytest.raises(
        ConfigurationError, match=r"do not end with a token of their own .*endless.json is false\): pre"
    ):
        with_end_of_document(architecture(documents="separate"), [dataset, endless])
    manifest_path(dataset).unlink()
    with pytest.raises(ConfigurationError, match=r"has no manifest \(ended.json\) .* give model.end_of_document"):
        with_end_of_document(architecture(documents="separate"), [dataset])
    for each in (endless, dataset):
        given = architecture(documents="separate", end_of_document=10)
        assert with_end_of_document(given, [each]) == given


def test_a_checkpoint_of_joined_documents_is_no_start_for_separate_ones() -> None:
    joined = architecture().model_dump(mode="json")
    separate = architecture(documents="separate", end_of_document=256).model_dump(mode="json")
    with pytest.raises(CheckpointError, match=r"model\.documents is joined there and separate here"):
        check_identity(Path("step"), joined, separate)
    check_identity(Path("step"), separate, separate)


def test_a_checkpoint_from_before_the_setting_joined_them() -> None:
    old = architecture().model_dump(mode="json")
    for key in ("documents", "end_of_document"):
        del old["model"][key]
    assert Architecture.model_validate(old) == architecture()
    check_identity(Path("step"), old, architecture().model_dump(mode="json"))
    with pytest.raises(CheckpointError, match=r"model\.documents is joined there and separate here"):
        check_identity(Path("step"), old, architecture(documents="separate").model_dump(mode="json"))


def run(prefix: Path, run_dir: Path, documents: str, stop: int | None = None) -> list[tuple[float, float]]:
    """Loss and validation loss of each step."""
    keys = {
        "run_dir": run_dir,
        "data.prefix": prefix,
        "data.split": "80,20",
        "model": f"{{num_layers: 2, hidden_size: 32, num_heads: 4, dropout: 0.1, documents: {documents}}}",
        "positions.kind": "randomized_rope",
        "mixer.kind": "dape",
        "training": "{steps: 4, sequence_length: 32, global_batch_size: 8, micro_batch_size: 4}",
        "validation": "{every: 1, sequences: 6}",
    }
    train(load([], [f"{key}={value}" for key, value in keys.items()]), "", Silent(), stop)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["validation_loss"]) for row in rows]


def test_a_run_goes_on_with_documents_as_it_began(tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = [json.dumps({"text": "lorem ipsum dolor sit amet"[: draw.randint(1, 26)]}) for _ in range(300)]
    (tmp_path / "many.jsonl").write_text("\n".join(texts))
    preprocess_files([tmp_path / "many.jsonl"], tmp_path / "many", tokenizer="byte", append_eod=True)
    whole = run(tmp_path / "many", tmp_path / "whole", "separate")
    assert len(run(tmp_path / "many", tmp_path / "parts", "separate", stop=2)) == 2
    with pytest.raises(CheckpointError, match=r"model\.documents is separate there and joined here"):
        run(tmp_path / "many", tmp_path / "parts", "joined")
    assert run(tmp_path / "many", tmp_path / "parts", "separate") == whole
    joined = run(tmp_path / "many", tmp_path / "joined", "joined")
    assert all(ours[0] != theirs[0] and ours[1] != theirs[1] for ours, theirs in zip(whole, joined, strict=True))
