"""``megadape evaluate``: what is asked for on the command line, and what is left in the run folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from megadape.cli.evaluate import app
from megadape.config import dump_yaml, load
from megadape.errors import EvaluationError
from megadape.studies.evaluate import EvaluationRequest, load_run, request_settings
from megadape.testing import Silent
from megadape.training.launch import train


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = {
        "run_dir": tmp_path_factory.mktemp("evaluate") / "run",
        "data.prefix": corpus,
        "data.split": "60,40",
        "model": "{num_layers: 1, hidden_size: 16, num_heads: 2}",
        "training": "{steps: 1, sequence_length: 32, global_batch_size: 2, micro_batch_size: 2}",
        "evaluation": "{lengths: [32, 256], sequences: 2, passkey: {trials: 1, depths: [0.5], candidates: 2}}",
    }
    run = load([], [f"{key}={value}" for key, value in keys.items()])
    train(run, dump_yaml(run), Silent())
    return run.run_dir


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_everything_is_measured_written_and_drawn(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    result = invoke(tmp_path / "run", "--positions")  # the settings ask for passkeys
    assert result.exit_code == 0, result.output
    assert "passkey retrieval, chance 0.5:" in result.output
    assert "length 256: likeliest" in result.output
    folder = tmp_path / "run/evaluation"
    left = {path.name for path in folder.iterdir() if path.is_file()}
    kinds = ("fixed_target", "positions", "passkey")
    assert left == {f"{kind}-step-1{end}" for kind in kinds for end in (".json", ".csv", ".png")}
    rows = (folder / "positions-step-1.csv").read_text().splitlines()
    assert rows[0] == "first,end,loss"
    assert rows[1].startswith("0,1,")
    assert rows[-1].split(",")[1] == "256"
    assert (folder / "passkey-step-1.csv").read_text().splitlines()[1].startswith("256,0.5,1,")


def test_a_set_is_named_in_its_files(trained: Path, corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    settings = yaml.safe_load((trained / "settings.yaml").read_text())
    settings["evaluation"]["sets"] = {name: {"prefix": str(corpus)} for name in ("one", "two")}
    (tmp_path / "run/settings.yaml").write_text(yaml.safe_dump(settings))
    result = invoke(tmp_path / "run", "--data", "two", "--no-passkey")
    assert result.exit_code == 0, result.output
    left = {path.name for path in (tmp_path / "run/evaluation").iterdir() if path.is_file()}
    assert left == {f"fixed_target-step-1-two{end}" for end in (".json", ".csv", ".png")}


def test_what_is_asked_for_goes_before_the_settings(trained: Path) -> None:
    run = load_run(trained)
    asked = EvaluationRequest(trained, "train", None, "64,16", "all", 7, 9, positions=True, passkey=False)
    settings, data = request_settings(run, asked)
    assert (settings.lengths, settings.mode, settings.sequences, settings.last_k) == ((16, 64), "all", 7, 9)
    assert (settings.split, settings.passkey, data) == ("train", None, run.data)
    assert settings.positions is not None
    kept, _ = request_settings(run, EvaluationRequest(trained))
    assert kept == run.evaluation


def test_mistakes_are_named(trained: Path, corpus: Path) -> None:
    run = load_run(trained)
    sets = run.evaluation.model_validate({"sets": {"books": {"prefix": corpus}}})
    named = run.model_copy(update={"evaluation": sets})
    for wrong, said in (
        (EvaluationRequest(trained, mode="sliding"), "fixed_target"),
        (EvaluationRequest(trained, split="tests"), "train, valid, test"),
        (EvaluationRequest(trained, lengths="0,16"), "at least 1"),
        (EvaluationRequest(trained, split="test"), "--split is for"),
    ):
        with pytest.raises(EvaluationError, match=said):
            request_settings(named if "for" in said else run, wrong)
    assert request_settings(named, EvaluationRequest(trained, "test", Path("other")))[0].sets is None
    assert request_settings(named, EvaluationRequest(trained, None, Path("books")))[0].sets == sets.sets
