"""Stopping: real signals to real ranks, budgets, the Slurm job's end, the stop file."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import TrainingError
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.testing import run_distributed
from megadape.training.supervision.durations import format_duration, parse_duration
from megadape.training.supervision.job_end import incarnation, parse_left, seconds_left
from megadape.training.supervision.outcome import RESUMABLE, State, read_outcome, write_outcome
from megadape.training.supervision.stop import Stopper, StopReason, StopSettings, StopSignals

ALONE = Mesh(Place(), torch.device("cpu"))
FAR = 10_000
"""Steps that no case here reaches."""

Case = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h55m", 14100), ("45m", 2700), ("90s", 90), ("1d12h", 129600), ("2.5s", 2.5), (" 1H 5M ", 3900), (30, 30)],
)
def test_durations_are_read_as_people_write_them(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5x", "-3m", "0s", "inf", "nan", "55m3h", None, "3:55"])
def test_what_is_no_duration_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match="3h55m"):
        parse_duration(text)
    with pytest.raises(ValueError, match="3h55m"):
        StopSettings.model_validate({"margin": text})


@given(st.integers(1, 10**7))
def test_durations_are_written_as_they_are_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04\n", 93784), ("02:03:04", 7384), ("3:04", 184), ("0:00", 0), ("UNLIMITED", None), ("", None)],
)
def test_time_left_is_read_as_squeue_writes_it(text: str, seconds: float | None) -> None:
    assert parse_left(text) == seconds


def test_the_end_of_the_job_comes_from_slurm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = {"SLURM_JOB_ID": "12", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert seconds_left({}) is None
    with caplog.at_level(logging.WARNING):
        assert seconds_left(job) is None
    assert "squeue does not say when job 12 ends" in caplog.text
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho 10:30\n')
    squeue.chmod(0o755)
    assert seconds_left(job) == 630
    assert "--jobs 12" in (tmp_path / "asked").read_text()
    left = seconds_left(job | {"SLURM_JOB_END_TIME": str(int(time.time()) + 500)})
    assert left is not None
    assert 0 < left <= 500
    assert incarnation(job) == "12.0"
    assert incarnation(job | {"SLURM_RESTART_COUNT": "3"}) == "12.3"


def stopper(folder: Path, environment: dict[str, str] | None = None, **settings: object) -> Stopper:
    chosen = StopSettings.model_validate(settings)
    return Stopper(chosen, folder, ALONE, StopSignals(), started=time.monotonic(), environment=environment or {})


def test_the_margin_covers_a_step_and_a_save_that_take_longer(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "12", "SLURM_JOB_END_TIME": str(int(time.time()) + 1000)}
    watched = stopper(tmp_path, job, margin="100s")
    assert watched.agreed() is None
    watched.note_step(200.0)
    assert watched.margin == 400.0
    assert watched.agreed() is None
    watched.note_save(400.0)
    stop = watched.agreed()
    assert stop is not None
    assert stop.reason is StopReason.JOB_END
    for _ in range(100):
        watched.note_step(1.0)
    assert watched.margin == 802.0
    assert stopper(tmp_path, job, margin="100s", at_job_end=False).agreed() is None


def test_a_stop_file_for_another_start_of_a_job_is_passed_over(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1"}
    for content, stops in [("", True), ("please", True), ("12.1\n", True), ("12.0\n", False), ("11.1", False)]:
        (tmp_path / "STOP").write_text(content)
        stop = stopper(tmp_path, job, at_job_end=False).agreed()
        assert (stop is not None) == stops, content
    other = stopper(tmp_path, file=str(tmp_path / "halt"))
    assert other.agreed() is None
    (tmp_path / "halt").touch()
    found = stopper(tmp_path, file=str(tmp_path / "halt")).agreed()
    assert found is not None
    assert str(found) == f"{tmp_path / 'halt'} is there; remove it before going on"


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.reason is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_put_back_and_only_the_main_thread_has_them() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.reason is StopReason.SIGTERM
    assert {number: signal.getsignal(number) for number in before} == before

    def elsewhere() -> None:
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before[signal.SIGTERM]]


# Ranks: (who signals whom with what) at step 3, and what all must agree on.
SIGNALLED: dict[str, Case] = {
    "SIGTERM to rank 2": {"send": [(0, 2, signal.SIGTERM)], "reason": StopReason.SIGTERM, "rank": 2},
    "SIGUSR1 to rank 0": {"send": [(3, 0, signal.SIGUSR1)], "reason": StopReason.SIGUSR1, "rank": 0},
    "SIGINT to rank 3 itself": {"send": [(3, 3, signal.SIGINT)], "reason": StopReason.SIGINT, "rank": 3},
    "two at once": {
        "send": [(1, 1, signal.SIGINT), (2, 2, signal.SIGUSR1)],
        "reason": StopReason.SIGINT,
        "rank": 1,
    },
    "everybody": {"send": [(r, r, signal.SIGTERM) for r in range(4)], "reason": StopReason.SIGTERM, "rank": 3},
    "budget": {"settings": {"after": "1s"}, "reason": StopReason.BUDGET, "rank": 0},
    "file": {"file": "STOP", "reason": StopReason.FILE, "rank": 0},
    "a file that asks to save": {"file": "SAVE", "reason": StopReason.SAVE, "rank": 0},
    "the job's end": {"left": 2, "settings": {"margin": 1}, "reason": StopReason.JOB_END, "rank": 0},
}


def steps_until_stopped(folder: str) -> dict[str, tuple[int, int, int, float]]:
    """Each case on all ranks: step, reason and rank of the stop, and the sum over the ranks of that step."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"))
    pids = [int(str(pid)) for pid in mesh.gather(os.getpid())]
    return {name: run_case(case, Path(folder), mesh, pids) for name, case in SIGNALLED.items()}


def run_case(case: Case, folder: Path, mesh: Mesh, pids: list[int]) -> tuple[int, int, int, float]:
    (folder / "STOP").unlink(missing_ok=True)
    environment = {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": str(int(time.time()) + case.get("left", 9999))}
    settings = StopSettings.model_validate(case.get("settings", {}))
    mesh.barrier()
    with StopSignals() as signals:
        watched = Stopper(settings, folder, mesh, signals, started=time.monotonic(), environment=environment)
        for step in range(1, FAR):
            for sender, receiver, number in case.get("send", ()):
                if step == 3 and mesh.rank == sender:
                    os.kill(pids[receiver], number)
            if step == 3 and "file" in case and mesh.rank == 3:
                (folder / case["file"]).touch()
            total = mesh.world.all_reduce(torch.tensor([float(step)])).item()
            stop = watched.agreed()
            if stop is not None:
                mesh.barrier()  # nobody's handlers go before everybody has been signalled
                return step, int(stop.reason), stop.rank, total
            time.sleep(0.002)
    raise AssertionError("never stopped")


def test_all_ranks_stop_at_the_same_step_for_whatever_one_of_them_has(tmp_path: Path) -> None:
    results = run_distributed(4, steps_until_stopped, str(tmp_path))
    for name, case in SIGNALLED.items():
        steps = {result[name] for result in results}
        assert len(steps) == 1, (name, steps)
        step, reason, rank, total = steps.pop()
        assert (reason, rank) == (case["reason"], case["rank"]), name
        assert step >= 3 or "send" not in case
        assert total == 4 * step


SCRIPT = """
import sys, time, torch
from pathlib import Path
from megadape.parallel.mesh import Mesh, Place
from megadape.training.supervision.outcome import RESUMABLE, write_outcome
from megadape.training.supervision.stop import Stopper, StopSettings, StopSignals

folder = Path(sys.argv[1])
with StopSignals() as signals:
    stopper = Stopper(StopSettings(), folder, Mesh(Place(), torch.device("cpu")), signals, started=time.monotonic())
    write_outcome(folder, "running", 0, "started")
    for step in range(1, 3000):
        time.sleep(0.01)
        if step == 3:
            print("going", flush=True)
        stop = stopper.agreed()
        if stop is not None and sys.argv[2] == "heeds":
            write_outcome(folder, "resumable", step, str(stop))
            sys.exit(RESUMABLE)
"""


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_going(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"


def test_a_stopped_process_says_that_it_can_be_resumed_and_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    heeding, other = start(tmp_path / "heeding", "heeds"), start(tmp_path / "other", "heeds not")
    wait_until_going(heeding)
    wait_until_going(other)
    running = read_outcome(tmp_path / "heeding")
    assert running is not None
    assert (running.state, running.exit_code) == ("running", None)
    heeding.send_signal(signal.SIGTERM)
    assert heeding.wait(60) == RESUMABLE == 75
    outcome = read_outcome(tmp_path / "heeding")
    assert outcome is not None
    assert outcome.step >= 3
    assert (outcome.state, outcome.exit_code, outcome.reason) == ("resumable", 75, "SIGTERM on rank 0")

    other.send_signal(signal.SIGINT)
    other.send_signal(signal.SIGINT)  # as torchrun passes on what the terminal has sent already
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(1.5)
    while other.poll() is None:  # one that comes long after the first was taken notice of
        other.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, errors = other.communicate()
    assert "KeyboardInterrupt" in errors
    outcome = read_outcome(tmp_path / "other")
    assert outcome is not None
    assert outcome.state == "running"


def test_the_outcome_is_replaced_as_a_whole_and_says_where_it_cannot_be(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) is None
    states: tuple[State, ...] = ("running", "failed", "done")
    written = [write_outcome(tmp_path / "run", state, 7, "no reason") for state in states]
    assert [outcome.exit_code for outcome in written] == [None, 1, 0]
    assert read_outcome(tmp_path / "run") == written[-1]
    assert set(json.loads((tmp_path / "run" / "outcome.json").read_text())) >= {"exit_code", "state", "step", "reason"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["outcome.json"]
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"file/outcome\.json cannot be written"):
        write_outcome(tmp_path / "file", "done", 1, "")
