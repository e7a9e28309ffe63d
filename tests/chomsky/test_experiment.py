"""Training, checkpoints, scoring: what was killed goes on to the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from megadape.chomsky import TASKS, Sample, build_task
from megadape.chomsky.experiment import ExperimentResult, claim, is_done, read_result, run_experiment
from megadape.chomsky.scoring import majority, score
from megadape.chomsky.settings import ExperimentSettings, ScoringSettings
from megadape.chomsky.training import build_model, count_right, learning_rate, masked_loss, train
from megadape.errors import CheckpointError, ConfigurationError, EvaluationError, TrainingError
from megadape.training.metrics import read_metrics

CPU = torch.device("cpu")


class StoppedError(Exception):
    pass


def make(task: str = "stack_manipulation", **changes: Any) -> ExperimentSettings:
    small: dict[str, Any] = {
        "task": task,
        "method": {"positions": {"kind": "kerple_log"}, "mixer": {"kind": "dape", "hidden": 8}, "position_range": 64},
        "seed": 7,
        "encoder": {"num_layers": 1, "hidden_size": 16, "num_heads": 2},
        "training": {"steps": 9, "batch_size": 8, "lengths": {"first": 1, "last": 6}, "save_every": 4},
        "scoring": {"lengths": {"first": 7, "last": 15, "stride": 4}, "sequences": 12, "batch_size": 5},
        "device": "cpu",
    }
    return ExperimentSettings.model_validate({**small, **changes})


def quiet(done: float, total: float, note: str) -> None:
    assert 0 <= done <= total


def timeless(result: ExperimentResult) -> dict[str, Any]:
    return {key: value for key, value in vars(result).items() if not key.endswith("_seconds")}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key != "seconds"} for row in read_metrics(folder / "metrics.jsonl")]


def test_an_experiment_from_start_to_end(tmp_path: Path) -> None:
    settings = make()
    assert not is_done(settings, tmp_path)
    result = run_experiment(settings, tmp_path, quiet)
    assert is_done(settings, tmp_path)
    assert [each.length for each in result.scores] == [7, 11, 15]
    assert [each.length for each in result.training_scores] == [1, 2, 3, 4, 5, 6]
    assert result.accuracy == pytest.approx(sum(each.accuracy for each in result.scores) / 3)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert {row["length"] for row in rows} <= set(range(1, 7))
    assert result.final_loss == rows[-1]["loss"]  # the last twentieth of nine steps
    before = (tmp_path / "results.json").stat().st_mtime_ns
    assert timeless(run_experiment(settings, tmp_path, quiet)) == timeless(result)
    assert (tmp_path / "results.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("stopped_after", [1, 4, 6, 9])
def test_what_was_interrupted_goes_on_to_the_same_numbers(tmp_path: Path, stopped_after: int) -> None:
    whole = run_experiment(make(), tmp_path / "whole", quiet)
    settings, folder = make(), tmp_path / "parts"

    def stop(step: int) -> None:
        if step == stopped_after:
            raise StoppedError

    claim(settings, folder)
    with pytest.raises(StoppedError):
        train(settings, folder, CPU, lambda step, loss: stop(step))
    assert len(rows_of(folder)) == stopped_after
    parts = run_experiment(settings, folder, quiet)
    assert timeless(parts) == timeless(whole)
    assert rows_of(folder) == rows_of(tmp_path / "whole")


KILLED = """
import json, os, sys
from pathlib import Path
import torch
from megadape.chomsky.settings import ExperimentSettings
from megadape.chomsky.training import train
settings, folder = ExperimentSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2])
train(settings, folder, torch.device("cpu"), lambda step, loss: os._exit(9) if step == 6 else None)
"""


def test_what_was_killed_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    settings = make("reverse_string")
    whole = run_experiment(settings, tmp_path / "whole", quiet)
    claim(settings, tmp_path / "killed")
    command = [sys.executable, "-c", KILLED, settings.model_dump_json(), str(tmp_path / "killed")]
    assert subprocess.run(command, check=False).returncode == 9
    assert timeless(run_experiment(settings, tmp_path / "killed", quiet)) == timeless(whole)


def test_a_folder_of_another_experiment_is_left_alone(tmp_path: Path) -> None:
    run_experiment(make(), tmp_path, quiet)
    other = make(encoder={"num_layers": 2, "hidden_size": 16, "num_heads": 2})
    assert not is_done(other, tmp_path)
    with pytest.raises(ConfigurationError, match=r"begun with other settings \(encoder.num_layers: 1 there, 2 now\)"):
        run_experiment(other, tmp_path, quiet)
    assert is_done(make(), tmp_path)
    # when to save and where to compute decide no result
    training = {"steps": 9, "batch_size": 8, "lengths": {"first": 1, "last": 6}, "save_every": 2}
    assert is_done(make(training=training, device="auto"), tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    run_experiment(make(), tmp_path, quiet)
    (tmp_path / "results.json").write_text('{"accuracy": 1}')
    with pytest.raises(EvaluationError, match=r"results\.json is no result of an experiment"):
        read_result(tmp_path)
    (tmp_path / "results.json").unlink()
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors cannot be read as this experiment's checkpoint"):
        run_experiment(make(), tmp_path, quiet)


def test_training_that_diverges_says_so(tmp_path: Path) -> None:
    training = {"steps": 20, "batch_size": 8, "lengths": {"first": 1, "last": 6}, "learning_rate": 1e30}
    encoder = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "norm": "pre"}
    with pytest.raises(TrainingError, match=r"the loss at step .* is .*: lower training.learning_rate"):
        run_experiment(make(training=training, encoder=encoder), tmp_path, quiet)
    assert not (tmp_path / "results.json").exists()


def test_the_seed_decides_the_start_and_the_strings(tmp_path: Path) -> None:
    runs = {name: run_experiment(make(seed=seed), tmp_path / name, quiet) for name, seed in (("a", 1), ("b", 2))}
    first, second = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert [row["length"] for row in first] != [row["length"] for row in second]
    # what is scored is the same for both
    assert [each.majority for each in runs["a"].scores] == [each.majority for each in runs["b"].scores]


def test_loss_and_accuracy_count_what_is_scored() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]])
    sample = Sample(
        torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0, 0, 1]]), torch.tensor([[True, True, False]])
    )
    losses = -logits.log_softmax(-1)
    assert float(masked_loss(logits, sample)) == pytest.approx(float(losses[0, 0, 0] + losses[0, 1, 0]) / 2)
    assert count_right(logits, sample) == (1, 2)
    assert majority(sample, 2) == 1.0
    whole = Sample(sample.inputs, sample.targets)
    assert float(masked_loss(logits, whole)) == pytest.approx(
        float(losses[0, 0, 0] + losses[0, 1, 0] + losses[0, 2, 1]) / 3
    )
    assert count_right(logits, whole) == (1, 3)
    assert majority(whole, 2) == pytest.approx(2 / 3)


def test_the_learning_rate_rises_and_stays() -> None:
    training = make(training={"steps": 9, "learning_rate": 0.1, "warmup_steps": 4}).training
    assert [learning_rate(training, step) for step in (1, 2, 4, 9)] == pytest.approx([0.025, 0.05, 0.1, 0.1])
    assert learning_rate(make().training, 1) == 1e-3


def test_scores_repeat_and_dropout_is_off_unless_asked_for() -> None:
    settings, task = make("reverse_string"), build_task("reverse_string")
    model = build_model(settings, task, CPU)
    plain = ScoringSettings(sequences=40, batch_size=7)
    first, again = (score(model, task, plain, [9, 10], CPU) for _ in range(2))
    assert first == again
    assert not model.training
    whole = score(model, task, plain.model_copy(update={"batch_size": 40}), [9, 10], CPU)
    assert [each.accuracy for each in whole] == pytest.approx([each.accuracy for each in first])
    dropped = score(model, task, plain.model_copy(update={"dropout": True}), [9, 10], CPU)
    assert model.training
    assert [each.majority for each in dropped] == [each.majority for each in first]
    assert [each.accuracy for each in dropped] != [each.accuracy for each in first]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_trained_and_scored(tmp_path: Path, task: str) -> None:
    training = {"steps": 2, "batch_size": 4, "lengths": {"first": 1, "last": 6}}
    result = run_experiment(make(task, training=training), tmp_path, quiet)
    assert result.chance in (0.5, 0.2)
    assert 0 <= result.accuracy <= 1
    assert json.loads((tmp_path / "results.json").read_text())["steps"] == 2
