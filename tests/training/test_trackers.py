"""metrics.jsonl, wandb offline and TensorBoard, each for real."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megadape.training.metrics import JsonLines, WandbTracker, open_trackers, read_metrics
from megadape.training.settings import LoggingSettings


def row(step: int) -> dict[str, float | int | None]:
    return {"step": step, "loss": 1 / step, "mfu": None}


def test_rows_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    first = JsonLines(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3, 4):
        first.log(row(step))
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    again = JsonLines(tmp_path / "metrics.jsonl", 2)
    again.log(row(3))
    again.close()
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_tensorboard_holds_every_number(tmp_path: Path) -> None:
    trackers, _ = open_trackers(tmp_path, LoggingSettings(tensorboard=True), 0, None, {})
    for tracker in trackers:
        tracker.log(row(1))
        tracker.log(row(2))
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]


@pytest.mark.slow
def test_wandb_offline_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = LoggingSettings(wandb_project="megadape-tests")
    ids: list[str | None] = [None]
    for step in (1, 2):
        trackers, name = open_trackers(tmp_path, settings, step - 1, ids[-1], {"model": {"num_layers": 2}})
        ids.append(name)
        for tracker in trackers:
            tracker.log(row(step))
            tracker.close()
    assert ids[1] == ids[2]
    runs = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert runs
    assert all(name.endswith(str(ids[1])) for name in runs)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.slow
def test_wandb_that_refuses_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with caplog.at_level(logging.WARNING):
        tracker = WandbTracker("no/such:name", tmp_path, None, {})
        tracker.log(row(1))
        tracker.close()
    assert "goes on without it" in caplog.text
