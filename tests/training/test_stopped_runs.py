"""Real training runs that are stopped, frozen or killed, started by their own command (slow: about a minute).

Ranks are started as srun would, with nobody watching over them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megadape.training.metrics import TIMING

ROOT = Path(__file__).parents[2]
PATIENCE = 150.0
STEPS = 100

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(run_dir: Path, corpus: Path, *settings: str) -> list[str]:
    chosen = (
        f"run_dir={run_dir}",
        f"data.prefix={corpus}",
        f"training.steps={STEPS}",
        "training.sequence_length=32",
        "training.global_batch_size=4",
        "training.micro_batch_size=2",
        "model.num_layers=2",
        "model.hidden_size=32",
        "checkpoint.save_every=20",
        *settings,
    )
    overrides = [word for setting in chosen for word in ("--set", setting)]
    files = [str(ROOT / "configs/models/demo.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml")]
    return [sys.executable, "-m", "megadape", "train", *files, *overrides]


def start(ranks: int, words: list[str]) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_NTASKS": str(ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            words,
            env={**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and words of each."""
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def rows(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def has_rows(run_dir: Path, count: int) -> Callable[[], bool]:
    file = run_dir / "metrics.jsonl"
    return lambda: file.is_file() and file.read_text().count("\n") >= count


def outcome(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "outcome.json").read_text())
    return found


@pytest.mark.usefixtures("all_cores")
def test_a_signal_to_one_rank_of_four_stops_all_and_the_same_command_ends_the_run(tmp_path: Path, corpus: Path) -> None:
    layout = ("parallel.tp=2", "parallel.pp=2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert [code for code, _ in finish(start(4, command(whole, corpus, *layout)))] == [0] * 4
    words = command(stopped, corpus, *layout)
    ranks = start(4, words)
    wait_for(has_rows(stopped, 30))
    ranks[2].send_signal(signal.SIGTERM)
    said = finish(ranks)
    assert [code for code, _ in said] == [75] * 4, said
    found = outcome(stopped)
    assert (found["state"], found["exit_code"], found["reason"]) == ("resumable", 75, "SIGTERM on rank 2")
    assert 30 <= found["step"] < STEPS
    assert (stopped / "checkpoints" / f"step-{found['step']:08d}").is_dir()
    assert [code for code, _ in finish(start(4, words))] == [0] * 4
    assert outcome(stopped)["state"] == "done"
    assert rows(stopped) == rows(whole)


@pytest.mark.usefixtures("all_cores")
def test_a_frozen_rank_is_found_and_the_stacks_of_the_others_are_shown(tmp_path: Path, corpus: Path) -> None:
    quick = ("watch.hang_minutes=0.1", "watch.interval_seconds=0.5", "watch.grace_seconds=2")
    ranks = start(2, command(tmp_path, corpus, "parallel.tp=2", *quick))
    wait_for(has_rows(tmp_path, 20))
    ranks[1].send_signal(signal.SIGSTOP)
    code, text = finish(ranks[:1])[0]
    ranks[1].kill()
    ranks[1].communicate()
    assert code not in (0, 75)
    assert "rank 1" in text
    assert "megadape/training/loop.py" in text  # of the stack
    assert outcome(tmp_path)["state"] == "failed"


def test_ten_random_kills_lose_nothing(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    tool = [sys.executable, str(ROOT / "tools/stress_checkpoint.py"), "--kills", "10", "--seed", "3"]
    done = subprocess.run(
        [*tool, "--steps", "300", "--folder", str(tmp_path / "stress")],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n10 kills in" in done.stdout, done.stdout
    record_property("trials", "10 kills of a training process")
