"""A file SAVE in the run folder: the run saves, removes it, and goes on as if nothing had been. That all ranks agree on
it is tested with the stops."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from megadape.config import dump_yaml, load
from megadape.training.launch import train
from megadape.training.metrics import TIMING
from megadape.training.supervision import stop
from megadape.training.supervision.outcome import read_outcome, write_outcome

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "training.steps=12",
    "training.sequence_length=32",
    "training.global_batch_size=2",
    "training.micro_batch_size=2",
    "model.num_layers=1",
    "model.hidden_size=32",
    "checkpoint.save_every=0",
    "checkpoint.keep=9",
)


class Onlooker:
    """Does something at every step."""

    def __init__(self, do: Callable[[int], None]) -> None:
        self.do = do

    def message(self, text: str) -> None:
        """Not heard."""

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        self.do(row["step"])


def run(run_dir: Path, corpus: Path, do: Callable[[int], None]) -> list[dict[str, Any]]:
    overrides = [*SETTINGS, f"run_dir={run_dir}", f"data.prefix={corpus}"]
    settings = load([ROOT / "configs/models/demo.yaml"], overrides)
    assert train(settings, dump_yaml(settings), Onlooker(do)).state == "done"
    lines = (run_dir / "metrics.jsonl").read_text().split("\n")[:-1]
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


def test_a_run_saves_when_it_is_told_to_and_goes_on(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "POLL_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told, file = tmp_path / "told", tmp_path / "told" / "SAVE"

    def tell(step: int) -> None:
        if step in (3, 7):
            file.touch()

    rows = run(told, corpus, tell)
    saved = sorted(path.name for path in (told / "checkpoints").glob("step-*"))
    assert saved[-1] == "step-00000012"
    assert len(saved) == 3, "once for each time that it was asked, and at the end"
    assert not file.exists()
    assert rows == run(tmp_path / "whole", corpus, lambda step: None)
    assert len(rows) == 12


def test_a_rank_that_outlived_its_start_does_not_change_what_a_later_one_has_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    later = write_outcome(tmp_path, "done", 40, "all made")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    write_outcome(tmp_path, "failed", 30, "taken over")
    assert read_outcome(tmp_path) == later
    monkeypatch.setenv("SLURM_JOB_ID", "11")  # another job has the word, whatever its number
    other = write_outcome(tmp_path, "failed", 30, "taken over")
    assert read_outcome(tmp_path) == other
