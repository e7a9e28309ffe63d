"""A file SAVE in the run folder: a real run of two ranks saves, removes it, and goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megadape.training.supervision.outcome import read_outcome, write_outcome

ROOT = Path(__file__).parents[2]
TIMING = {"tokens_per_second", "model_flops_per_second", "peak_memory_bytes", "seconds"}
SETTINGS = (
    "training.steps=500",
    "training.sequence_length=32",
    "training.global_batch_size=4",
    "training.micro_batch_size=2",
    "model.num_layers=2",
    "model.hidden_size=32",
    "checkpoint.save_every=0",
    "checkpoint.keep=9",
)


def start(run_dir: Path, corpus: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "megadape"]
    command += ["train", str(ROOT / "configs/models/demo.yaml")]
    for setting in (*SETTINGS, f"run_dir={run_dir}", f"data.prefix={corpus}"):
        command += ["--set", setting]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(run_dir: Path) -> list[dict[str, Any]]:
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_a_run_saves_when_it_is_told_to_and_goes_on(tmp_path: Path, corpus: Path) -> None:
    run_dir = tmp_path / "told"
    process = start(run_dir, corpus)
    try:
        while len(rows(run_dir)) < 3:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        (run_dir / "SAVE").touch()
        said = process.communicate(timeout=200)[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    saved = sorted(path.name for path in (run_dir / "checkpoints").glob("step-*"))
    assert len(saved) == 2, said
    assert saved[1] == "step-00000500"
    assert not (run_dir / "SAVE").exists()
    assert "remove it" not in said
    whole = start(tmp_path / "whole", corpus)
    said = whole.communicate(timeout=200)[0]
    assert whole.returncode == 0, said
    assert rows(run_dir) == rows(tmp_path / "whole")


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
