"""Errors reach all ranks, the background loses nothing, and one incarnation of a run writes at a time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from example_states import alone, check_own, mesh_of, open_writer, own_state, save_step, save_steps, table_of

from megadape.checkpoint.fence import FENCE, Fence
from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.manifest import QUICK, find_problem
from megadape.checkpoint.writer import CheckpointWriter
from megadape.errors import CheckpointError
from megadape.faults import VARIABLE
from megadape.testing import run_distributed

MODES = {"sync": False, "async": True}


def newest_step(folder: Path) -> int | None:
    newest = CheckpointFolder(folder).newest()
    return newest.step if newest else None


def fail_then_save(folder: Path, fault: str, asynchronous: bool) -> tuple[str, list[str], int]:
    """A fault while step 2 is saved, then step 3 without: what was said, what was left behind, what is found."""
    mesh = mesh_of((2, 1, 1))
    writer = open_writer(folder, mesh, asynchronous=asynchronous)
    writer.take_over()
    save_step(writer, 1)
    writer.finish()
    os.environ[VARIABLE] = fault
    said = ""
    try:
        save_step(writer, 2)
        writer.finish()
    except CheckpointError as error:
        said = str(error)
    del os.environ[VARIABLE]
    mesh.barrier()
    left = sorted(path.name for path in folder.iterdir())
    mesh.barrier()
    saved = save_step(writer, 3) or writer.finish()
    assert saved
    return said, left, saved.step


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", ["before_write", "before_tensor", "before_flush", "before_report"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_one_rank_is_told_on_all(tmp_path: Path, point: str, mode: str, rank: int) -> None:
    fault = f"checkpoint.{point}=disk_full#{rank}"
    for said, left, step in run_distributed(2, fail_then_save, tmp_path, fault, MODES[mode]):
        assert f"checkpoint of step 2 could not be written on rank {rank}: [Errno 28] No space left" in said
        assert left == ["fence.json", "step-00000001"]
        assert step == 3
    assert newest_step(tmp_path) == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", ["before_manifest", "after_manifest"])
def test_an_error_of_the_commit_is_told_on_all(tmp_path: Path, point: str, mode: str) -> None:
    for said, left, _ in run_distributed(2, fail_then_save, tmp_path, f"checkpoint.{point}=raise", MODES[mode]):
        assert "on rank 0: fault injected at" in said
        assert left == ["fence.json", "step-00000001"]


def save_until_full(folder: Path) -> str:
    writer = open_writer(folder, alone(), keep=9)
    writer.take_over()
    table = table_of(alone())
    parameters, moments = own_state(table, 1)
    state = {"ballast": "x" * 60_000}
    try:
        for step in range(1, 30):
            writer.save(step, parameters, moments, table, state)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 300 KiB; None where nobody may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_was_there(
    small_disk: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_disk is None:  # the same error, from the code instead of the disk
        monkeypatch.setenv(VARIABLE, "checkpoint.before_flush=disk_full@5")
    folder = small_disk or tmp_path / "small"
    said = save_until_full(folder)
    assert "could not be written" in said
    assert "No space left on device" in said
    newest = CheckpointFolder(folder).newest()
    assert newest is not None
    assert f"step {newest.step + 1} could not" in said
    assert {path.name[:5] for path in folder.iterdir()} == {"fence", "step-"}


def save_as_nobody(folder: Path) -> tuple[str, str]:
    """Without the rights of root, to a folder that may be read: what taking over says, and what saving says."""
    if os.geteuid() == 0:
        os.setuid(65534)
    writer = open_writer(folder, alone())
    try:
        writer.take_over()
    except CheckpointError as error:
        return str(error), str(newest_step(folder))
    return "", ""


def test_a_read_only_folder_is_told_and_can_be_read() -> None:
    # not in pytest's folders, into which other users cannot look
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.path.realpath(temporary)) / "checkpoints"
        save_steps(folder, (1,), None, {})
        folder.parent.chmod(0o755)
        folder.chmod(0o555)
        try:
            ((said, found),) = run_distributed(1, save_as_nobody, folder)
        finally:
            folder.chmod(0o755)
    assert f"checkpoints cannot be written to {folder}: [Errno 13] Permission denied" in said
    assert found == "1"


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*file"):
        open_writer(tmp_path / "file" / "checkpoints", alone()).take_over()


def test_the_snapshot_is_of_the_step_and_not_of_what_training_does_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "checkpoint.before_write=delay:0.2")
    mesh = alone()
    writer, table = open_writer(tmp_path, mesh, asynchronous=True), table_of(mesh)
    writer.take_over()
    for step in (1, 2):
        parameters, moments = own_state(table, step)
        assert writer.save(step, parameters, moments, table, {"step": step}) is None
        for tensor in (*parameters.values(), *(one for held in moments.values() for one in held.values())):
            tensor.fill_(torch.nan)
    saved = writer.finish()
    assert saved is not None
    assert saved.pause <= saved.seconds
    for checkpoint in CheckpointFolder(tmp_path).list():
        check_own(checkpoint, table)


def test_at_most_one_is_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "checkpoint.before_report=delay:0.2")
    writer = open_writer(tmp_path, alone(), asynchronous=True, keep=9)
    writer.take_over()
    for step in (1, 2, 3):
        save_step(writer, step)
        assert newest_step(tmp_path) == (step - 1 or None)
    writer.finish()
    assert newest_step(tmp_path) == 3


def test_a_failure_in_the_background_is_seen_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "checkpoint.before_flush=disk_full")
    writer = open_writer(tmp_path, alone(), asynchronous=True)
    writer.take_over()
    save_step(writer, 1)
    deadline = time.monotonic() + 60
    while not writer.failed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writer.failed
    with pytest.raises(CheckpointError, match="No space left"):
        save_step(writer, 2)
    assert not writer.failed
    assert writer.finish() is None


END_AT_ONCE = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from example_states import alone, open_writer, save_step
writer = open_writer(Path({folder!r}), alone(), asynchronous=True)
writer.take_over()
save_step(writer, 1)
"""


def test_a_process_that_ends_at_once_has_saved(tmp_path: Path) -> None:
    code = END_AT_ONCE.format(path=[str(Path(__file__).parent)], folder=str(tmp_path))
    environment = {**os.environ, VARIABLE: "checkpoint.before_write=delay:0.5"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert newest_step(tmp_path) == 1


def test_a_rank_that_never_writes_is_named(tmp_path: Path) -> None:
    for said in run_distributed(2, wait_for_the_dead, tmp_path):
        assert "could not be written on rank 0: rank 1 has not written its part of step 1 in 0 s" in said


def wait_for_the_dead(folder: Path) -> str:
    os.environ[VARIABLE] = "checkpoint.before_write=delay:1#1"
    writer = open_writer(folder, mesh_of((1, 1, 2)), asynchronous=True, wait_minutes=0.005)
    writer.take_over()
    try:
        save_step(writer, 1)
        writer.finish()
    except CheckpointError as error:
        return str(error)
    return ""


def test_an_older_incarnation_writes_no_more(tmp_path: Path) -> None:
    older, newer = open_writer(tmp_path, alone()), open_writer(tmp_path, alone())
    older.take_over()
    save_step(older, 1)
    found = newer.take_over()
    assert found is not None
    assert found.step == 1
    with pytest.raises(CheckpointError, match=r"was taken over by start 2 .*, so that start 1 .* end this run"):
        save_step(older, 7)
    save_step(newer, 2)
    assert newest_step(tmp_path) == 2


def test_a_take_over_in_the_middle_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every point before the rename; the fence has been read by then, or not."""
    for step, point in enumerate(("before_tensor", "before_report", "before_manifest", "after_manifest"), start=1):
        older, newer = open_writer(tmp_path, alone(), asynchronous=True), open_writer(tmp_path, alone())
        older.take_over()
        monkeypatch.setenv(VARIABLE, f"checkpoint.{point}=delay:0.3@1")
        save_step(older, 50 + step)
        time.sleep(0.1)
        newer.take_over()
        monkeypatch.delenv(VARIABLE)
        with pytest.raises(CheckpointError, match=r"taken over|No such file"):
            older.finish()
        save_step(newer, step)
        assert newest_step(tmp_path) == step


def save_for_ever(writer: CheckpointWriter) -> None:
    for step in range(2, 1000):
        save_step(writer, step)


def contend(folder: Path, trials: int) -> int:
    """Rank 0 saves until it is refused; rank 1 takes over at any moment. Nothing of rank 0 appears after that."""
    from torch import distributed as dist

    rank, order = dist.get_rank(), random.Random(5)
    for trial in range(trials):
        here, delay = folder / str(trial), order.random() * 0.06
        dist.barrier()
        if rank == 0:
            older = open_writer(here, alone(), keep=100, asynchronous=bool(trial % 2))
            older.take_over()
            save_step(older, 1)
            older.finish()
        dist.barrier()
        if rank == 0:
            with pytest.raises(CheckpointError):
                save_for_ever(older)
        else:
            time.sleep(delay)
            newer = open_writer(here, alone(), keep=100)
            found = newer.take_over()
            assert found is not None
            save_step(newer, found.step + 1)
            save_step(newer, found.step + 2)
        dist.barrier()
        if rank == 1:
            assert found is not None
            for checkpoint in CheckpointFolder(here).list():
                assert find_problem(checkpoint.path) is None
                number = checkpoint.manifest()["written_by"]["number"]
                assert number == (1 if checkpoint.step <= found.step else 2)
            assert newest_step(here) == found.step + 2
    return trials


def test_two_writers_at_once(tmp_path: Path, record_trials: Callable[[str, int], None]) -> None:
    trials = run_distributed(2, contend, tmp_path, 20, timeout=280)
    record_trials("take-overs while another writes", trials[0])


def restart(folder: Path, **environment: str) -> Fence:
    return Fence.take_over(folder, environment)


def test_an_earlier_restart_of_the_same_job_is_refused(tmp_path: Path) -> None:
    restart(tmp_path, SLURM_JOB_ID="77")
    restart(tmp_path, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="2")
    with pytest.raises(CheckpointError, match=r"belongs to start 2 .job 77, restart 2.: this is restart 1"):
        restart(tmp_path, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="1")
    again = restart(tmp_path, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="2")
    other = restart(tmp_path, SLURM_JOB_ID="5")
    assert (again.incarnation.number, other.incarnation.number) == (3, 4)
    with pytest.raises(CheckpointError, match="taken over by start 4"):
        again.check()
    other.check()


def test_a_fence_that_cannot_be_read_refuses(tmp_path: Path) -> None:
    fence = restart(tmp_path)
    for content in ("{", json.dumps({"name": 1})):
        (tmp_path / FENCE).write_text(content)
        with pytest.raises(CheckpointError, match="nobody knows whom"):
            fence.check()
    restart(tmp_path).check()


def test_a_checkpoint_says_who_wrote_it(tmp_path: Path) -> None:
    save_steps(tmp_path, (1,), None, {})
    (checkpoint,) = CheckpointFolder(tmp_path).list()
    written: dict[str, Any] = checkpoint.manifest()["written_by"]
    assert written.keys() == {"name", "number", "job", "restart"}
    assert find_problem(checkpoint.path, QUICK) is None


def test_a_take_over_after_the_report_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rank has said is swept away: the first rank must not wait for it."""
    older, newer = open_writer(tmp_path, alone(), asynchronous=True), open_writer(tmp_path, alone())
    older.take_over()
    monkeypatch.setenv(VARIABLE, "checkpoint.after_report=delay:0.3@1")
    save_step(older, 1)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".step-*/.rank-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    newer.take_over()
    with pytest.raises(CheckpointError, match="taken over by start 2"):
        older.finish()
