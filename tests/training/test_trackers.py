"""metrics.jsonl, wandb offline and TensorBoard, each for real."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megadape.errors import TrainingError
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


def test_tensorboard_takes_words_too(tmp_path: Path) -> None:
    trackers, _ = open_trackers(tmp_path, LoggingSettings(tensorboard=True), 0, None, {})
    for tracker in trackers:
        tracker.log({"step": 3, "loss": 2.5, "skipped": True, "anomaly": "the loss jumped", "loss_scale": None})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]} == {"loss": 2.5, "skipped": 1.0}
    (words,) = events.Tensors("anomaly/text_summary")
    assert (words.step, words.tensor_proto.string_val[0]) == (3, b"the loss jumped")


def read_wandb(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .wandb file: a head of 7 bytes, then records in the format of LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    data, position, record = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # the rest of a block
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            content, record = wandb_internal_pb2.Record.FromString(record), b""
            if content.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: item.value_json for item in content.history.item}
                yield {key: json.loads(value) for key, value in items.items()}


def test_wandb_modes_that_there_are_not_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(TrainingError, match="WANDB_MODE is 'ofline': set it to one of online, offline"):
        WandbTracker("megadape-tests", tmp_path, None, {})
    assert not (tmp_path / "wandb").exists()


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
    kept = [each for file in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")) for each in read_wandb(file)]
    logged = {(each["step"], each["_step"], each["loss"], each["mfu"]) for each in kept}
    assert logged == {(1, 1, 1.0, None), (2, 2, 0.5, None)}
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
