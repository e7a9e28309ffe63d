"""One experiment in one folder: train, score, keep the result.

FOLDER/
  settings.json      what decides the result, written first
  state.safetensors  the newest checkpoint
  metrics.jsonl      one row a step
  results.json       written last: where it is, nothing is left to do
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from megadape.chomsky.registry import build_task
from megadape.chomsky.scoring import LengthScore, score
from megadape.chomsky.settings import ExperimentSettings
from megadape.chomsky.training import train
from megadape.data.files import write_whole
from megadape.errors import ConfigurationError, EvaluationError
from megadape.model import count_parameters
from megadape.training.metrics import read_metrics

Report = Callable[[float, float, str], None]
"""(done, total, a few words)."""

LAST_SHARE = 20
"""The final loss is the mean over the last twentieth of the steps."""


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment found."""

    accuracy: float
    """Mean over the lengths scored."""

    training_accuracy: float
    """Mean over the lengths trained at, on fresh strings."""

    chance: float
    """Of a guess, the same for all lengths."""

    scores: tuple[LengthScore, ...]
    training_scores: tuple[LengthScore, ...]
    steps: int
    parameters: int
    final_loss: float
    train_seconds: float
    score_seconds: float

    @property
    def majority(self) -> float:
        """Mean over the lengths scored of what always saying the commonest symbol reaches."""
        return mean([each.majority for each in self.scores])


def run_experiment(settings: ExperimentSettings, folder: Path, report: Report) -> ExperimentResult:
    """Do what is not done yet, and return the result.

    Raises:
        ConfigurationError: the folder was begun with other settings, or the task is unknown.
        TrainingError: training diverged.
    """
    claim(settings, folder)
    if (folder / "results.json").exists():
        return read_result(folder)
    device, task = choose_device(settings.device), build_task(settings.task, settings.options)
    steps = settings.training.steps

    def stepped(step: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            report(0.8 * step / steps, 1.0, f"step {step}, loss {loss:.3f}")

    model = train(settings, folder, device, stepped)
    started = time.perf_counter()
    lengths = settings.scoring.lengths.values
    scores = score(
        model,
        task,
        settings.scoring,
        lengths,
        device,
        lambda length: report(0.8 + 0.19 * length / lengths[-1], 1.0, f"scored length {length}"),
    )
    trained = score(model, task, settings.scoring, settings.training.lengths.values, device)
    rows = read_metrics(folder / "metrics.jsonl")
    result = ExperimentResult(
        accuracy=mean([each.accuracy for each in scores]),
        training_accuracy=mean([each.accuracy for each in trained]),
        chance=task.chance,
        scores=tuple(scores),
        training_scores=tuple(trained),
        steps=steps,
        parameters=count_parameters(model),
        final_loss=mean([row["loss"] for row in rows[-max(1, steps // LAST_SHARE) :]]),
        train_seconds=sum(row["seconds"] for row in rows),
        score_seconds=time.perf_counter() - started,
    )
    write_whole(folder / "results.json", json.dumps(asdict(result), indent=1).encode())
    report(1.0, 1.0, f"accuracy {100 * result.accuracy:.1f} %")
    return result


def claim(settings: ExperimentSettings, folder: Path) -> None:
    """Write down what the folder is for; ``ConfigurationError`` where it was begun for something else."""
    path, mine = folder / "settings.json", decisive(settings)
    if not path.exists():
        write_whole(path, json.dumps(mine, indent=1).encode())
        return
    try:
        theirs = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; remove the folder to start anew") from error
    if theirs != mine:
        raise ConfigurationError(
            f"{folder} was begun with other settings ({', '.join(differences(theirs, mine))}): give the study another "
            "folder, or remove this one"
        )


def is_done(settings: ExperimentSettings, folder: Path) -> bool:
    """Whether the folder has the result of just these settings."""
    with suppress(OSError, ValueError):
        return (folder / "results.json").exists() and json.loads((folder / "settings.json").read_bytes()) == decisive(
            settings
        )
    return False


def decisive(settings: ExperimentSettings) -> dict[str, Any]:
    """The settings that decide a result."""
    return settings.model_dump(mode="json", exclude={"device": True, "training": {"save_every"}})


def differences(old: object, new: object, key: str = "") -> list[str]:
    """Keys whose values differ, each with both."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [] if old == new else [f"{key}: {json.dumps(old)} there, {json.dumps(new)} now"]
    return [
        difference
        for name in dict.fromkeys([*old, *new])
        for difference in differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    ]


def read_result(folder: Path) -> ExperimentResult:
    """A finished experiment's result; ``EvaluationError`` where it cannot be read."""
    path = folder / "results.json"
    try:
        content = json.loads(path.read_bytes())
        for key in ("scores", "training_scores"):
            content[key] = tuple(LengthScore(**each) for each in content[key])
        return ExperimentResult(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is no result of an experiment ({error}): remove it to score again") from error


def choose_device(name: str) -> torch.device:
    """The device that the settings ask for; ``ConfigurationError`` where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device is cuda, but there is none that torch can use: set device to cpu or auto")
    return torch.device(name)


def mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return sum(values) / len(values)
