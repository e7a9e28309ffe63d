"""Hangs of real processes: frozen by SIGSTOP, killed, waiting for ever, keeping the interpreter's lock."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.testing import RankFailed, run_distributed
from megadape.training.supervision.heartbeat import Heartbeat, Phase, describe_standing, heartbeat_path, read_heartbeat
from megadape.training.supervision.watchdog import Watchdog, WatchSettings

QUICK = WatchSettings(
    hang_minutes=0.03,
    start_minutes=0.0,
    save_minutes=0.03,
    validate_minutes=10.0,
    interval_seconds=0.1,
    grace_seconds=1.5,
)
"""Hangs are found within two seconds of being awake."""


def wait_for_ever() -> None:
    """Its name must stand among the stacks."""
    threading.Event().wait()


def train(folder: str, rank: int, step: int, misfortune: str) -> None:
    """A loop over a collective, in which a misfortune befalls one rank at the beginning of one step."""
    mesh = make_mesh(Place.from_environment(), torch.device("cpu"))
    # what a rank says on standard error can be read afterwards
    os.dup2(os.open(Path(folder) / f"rank-{mesh.rank}.err", os.O_CREAT | os.O_WRONLY), 2)

    def report(finding: str) -> None:
        (Path(folder) / f"rank-{mesh.rank}.report").write_text(finding)

    with Watchdog(QUICK, Path(folder), mesh, 0, report) as watchdog:
        for now in range(1, 10_000):
            watchdog.enter("data", now)
            if (mesh.rank, now) == (rank, step):
                if misfortune == "waits":
                    wait_for_ever()
                if misfortune == "frozen in a long phase":
                    watchdog.enter("validate", now)
                    time.sleep(0.5)  # until it is in a heartbeat
                os.kill(os.getpid(), signal.SIGSTOP)
            watchdog.enter("update", now)
            mesh.world.all_reduce(torch.ones(1))


@dataclass(frozen=True)
class Incident:
    """What the ranks of a run left behind."""

    folder: Path

    def errors(self, rank: int) -> str:
        return (self.folder / f"rank-{rank}.err").read_text()

    def stacks(self, rank: int) -> str:
        return (self.folder / "stacks" / f"rank-{rank:05d}.txt").read_text()


MISFORTUNES = {
    "the last is frozen": (3, 2, "frozen"),
    "the first is frozen": (2, 0, "frozen in a long phase"),
    "waits": (2, 1, "waits"),
}
"""Name -> ranks, the unhappy one, what befalls it."""


@pytest.fixture(scope="module")
def incidents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Incident]:
    """One run each, all at the same time: most of it is waiting."""

    def fail(name: str) -> Incident:
        ranks, rank, misfortune = MISFORTUNES[name]
        folder = tmp_path_factory.mktemp("run")
        # what an earlier start of the run left must mean nothing
        (folder / "stacks").mkdir()
        (folder / "stacks" / "REQUEST").write_text(json.dumps({"start": "earlier", "finding": "old"}))
        with pytest.raises(RankFailed):
            run_distributed(ranks, train, str(folder), rank, 3, misfortune)
        return Incident(folder)

    with ThreadPoolExecutor() as threads:
        return dict(zip(MISFORTUNES, threads.map(fail, MISFORTUNES), strict=True))


def test_a_frozen_rank_is_named_and_all_others_show_their_stacks(incidents: dict[str, Incident]) -> None:
    incident = incidents["the last is frozen"]
    frozen = read_heartbeat(incident.folder, 2)
    assert frozen is not None
    named = f"rank 2 (host {frozen.host}, pid {frozen.pid})"
    whole = re.compile(rf"{re.escape(named)}, at \w+ of step \d, gives no sign of life")
    for rank in (0, 1):
        assert f"stacks of rank {rank} at update of step 3" in incident.errors(rank)
        assert "all_reduce" in incident.errors(rank)
        assert "all_reduce" in incident.stacks(rank)
        assert whole.search(incident.errors(rank))
        assert whole.search((incident.folder / f"rank-{rank}.report").read_text())
    assert not (incident.folder / "stacks" / "rank-00002.txt").exists()
    assert json.loads((incident.folder / "stacks" / "REQUEST").read_text())["start"] == frozen.start


def test_the_first_rank_is_watched_by_the_others(incidents: dict[str, Incident]) -> None:
    errors = incidents["the first is frozen"].errors(1)
    # which may validate for ten minutes
    assert re.search(r"rank 0 \(host \S+, pid \d+\), at validate of step \d, gives no sign of life", errors)
    assert "stacks of rank 1 at update of step 3" in errors


def test_a_rank_that_waits_for_ever_shows_where(incidents: dict[str, Incident]) -> None:
    incident = incidents["waits"]
    assert "wait_for_ever" in incident.errors(1)
    assert "wait_for_ever" in incident.stacks(1)
    assert "rank 1: data of step 3" in incident.errors(0) + incident.errors(1)
    assert "stacks of rank 0 at update of step 3" in incident.errors(0)
    assert "gives no sign of life" not in incident.errors(0) + incident.errors(1)


SCRIPT = """
import ctypes, sys, time, torch
from pathlib import Path
from megadape.parallel.mesh import Mesh, Place
from megadape.training.supervision.watchdog import Watchdog, WatchSettings

def keep_the_lock(seconds):  # as a broken extension does: nothing else runs in this interpreter
    ctypes.PyDLL(None).sleep(seconds)

settings = WatchSettings.model_validate_json(sys.argv[2])
with Watchdog(settings, Path(sys.argv[1]), Mesh(Place(), torch.device("cpu")), 0, print) as watchdog:
    watchdog.enter("validate", 1)
    time.sleep(2.2)
    watchdog.enter("update", 2)
    print("to be suspended", flush=True)
    time.sleep(0.8)
    sys.stdin.readline()
    watchdog.enter("update", 3)
    time.sleep(0.3)
    keep_the_lock(3)
print("ended", flush=True)
"""
"""A run of one rank."""


def test_long_phases_and_suspended_jobs_go_on_and_a_locked_interpreter_shows_its_stacks(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), QUICK.model_dump_json()]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == "to be suspended\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.2)
    process.send_signal(signal.SIGCONT)
    out, errors = process.communicate("go on\n", timeout=60)
    assert (out, process.returncode) == ("ended\n", 0), errors
    assert "keep_the_lock" in errors
    last = read_heartbeat(tmp_path, 0)
    assert last is not None
    assert (last.phase, last.step) == ("end", 3)


def test_a_folder_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "heartbeats").touch()
    with Watchdog(QUICK, tmp_path, Mesh(Place(), torch.device("cpu")), 0, lambda _: None) as watchdog:
        watchdog.enter("update", 1)
        time.sleep(0.5)
    assert caplog.text.count("heartbeats of rank 0 cannot be written") == 1


def beat(rank: int, phase: Phase, seconds: float, count: int) -> Heartbeat:
    return Heartbeat("start", rank, "node1", 10 + rank, 7, phase, seconds, allowed=1.0, beat=count, time=0.0)


def test_who_is_silent_and_whom_the_rest_await_is_said_first() -> None:
    before = {
        0: beat(0, "update", 297, 5),
        1: beat(1, "update", 1, 3),
        2: beat(2, "data", 298, 8),
        3: beat(3, "end", 0, 9),
    }
    after = before | {0: beat(0, "update", 300.4, 6), 2: beat(2, "data", 301, 9)}
    assert describe_standing(before, after) == [
        "rank 1 (host node1, pid 11), at update of step 7, gives no sign of life: its process is frozen or gone",
        "rank 2: data of step 7 for 301 s",
        "rank 3: end of step 7 for 0 s",
        "ranks 0, 1: update of step 7 for 300 s",
    ]


def test_what_is_no_heartbeat_is_none(tmp_path: Path) -> None:
    assert read_heartbeat(tmp_path, 5) is None
    heartbeat_path(tmp_path, 5).parent.mkdir()
    for content in ("", "[]", '{"rank": 5}', "\0\0"):
        heartbeat_path(tmp_path, 5).write_text(content)
        assert read_heartbeat(tmp_path, 5) is None
