"""A rank that fails, dies or hangs ends the others; its own words are seen, and theirs are one sentence each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import distributed as dist

from megadape.errors import DataError, TrainingError
from megadape.parallel.failure import ending_together, explain_lost_peer

SCRIPT = Path(__file__).with_name("failing_rank.py")
ROOT = Path(__file__).parents[2]
LONG = 120.0
"""A time-out, in seconds, that no test waits for."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def start(
    how: str, timeout: float, ranks: int, started: Sequence[int], hanging: Sequence[int] = ()
) -> dict[int, tuple[int, str]]:
    """Run ranks as srun would, nobody watching over them: rank -> exit code, what it said. Hanging ones are killed."""
    port = str(free_port())
    processes = {
        rank: subprocess.Popen(
            [sys.executable, SCRIPT, how, str(timeout)],
            env=environment(
                SLURM_PROCID=str(rank),
                SLURM_NTASKS=str(ranks),
                SLURM_LOCALID=str(rank),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in started
    }
    try:
        said = {rank: processes[rank].communicate(timeout=90)[1] for rank in started if rank not in hanging}
        for rank in hanging:
            assert processes[rank].poll() is None, "the others did not wait for it to end"
        return {rank: (processes[rank].returncode, text) for rank, text in said.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def assert_one_sentence(rank: int, said: tuple[int, str], why: str) -> None:
    code, text = said
    assert code == 1
    assert f"megadape: rank {rank} stops: another rank is gone or silent ({why}" in text
    assert "Traceback" not in text


def test_a_bug_on_one_rank_ends_all_with_its_traceback() -> None:
    said = start("bug", LONG, 3, range(3))
    code, text = said[1]
    assert code == 1
    assert text.count("Traceback (most recent call last)") == 1
    assert "ZeroDivisionError: a bug on one rank" in text
    assert "This was rank 1 of 3" in text
    for rank in (0, 2):
        assert_one_sentence(rank, said[rank], "its connection was closed")


def test_a_users_mistake_on_one_rank_ends_all() -> None:
    said = start("data", LONG, 2, range(2))
    code, text = said[1]
    assert code == 2
    assert text.splitlines()[-1] == "megadape: rank 1: document 7 is damaged"
    assert "Traceback" not in text
    assert_one_sentence(0, said[0], "its connection was closed")


def test_a_killed_rank_ends_the_others() -> None:
    said = start("kill", LONG, 2, range(2))
    assert said[1][0] == -signal.SIGKILL
    assert_one_sentence(0, said[0], "its connection was closed")


def test_all_ranks_may_leave_together() -> None:
    said = start("leave", LONG, 2, range(2))
    assert {rank: code for rank, (code, _) in said.items()} == {0: 5, 1: 5}


def test_the_others_of_a_rank_that_hangs_end_after_the_time_out() -> None:
    said = start("hang", 3.0, 3, range(3), hanging=[1])
    # one of them waits for the other, which ends
    reasons = [text.partition("silent (")[2].partition(")")[0] for _, text in said.values()]
    assert "it did not answer within 3 s" in reasons
    for (rank, each), reason in zip(said.items(), reasons, strict=True):
        assert_one_sentence(rank, each, reason)


@pytest.mark.parametrize(("started", "why"), [(0, "1 of 2 ranks came"), (1, "nobody answered at 127.0.0.1, ")])
def test_a_rank_that_never_comes_is_waited_for_until_the_time_out(started: int, why: str) -> None:
    said = start("nothing", 3.0, 2, [started])
    code, text = said[started]
    assert code == 1
    assert f"megadape: rank {started} stops: another rank is gone or silent ({why}" in text


@pytest.mark.slow
@pytest.mark.parametrize(("how", "cause"), [("bug", "ZeroDivisionError"), ("kill", "SIGKILL")])
def test_torchrun_names_the_rank_that_failed_first(how: str, cause: str) -> None:
    """Three ranks twice: about 25 seconds."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--master-port"]
    ended = subprocess.run(
        [*command, str(free_port()), str(SCRIPT), how, str(LONG)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 1
    root = ended.stderr.partition("Root Cause")[2]
    assert "rank      : 1 " in root
    assert cause in (ended.stderr if how == "bug" else root)


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/{}] {}"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError(GLOO.format("pair.cc:553", "Connection closed by peer [10.0.0.1]:39856.")), "was closed"),
        (
            RuntimeError(GLOO.format("pair.cc:537", "Read error [10.0.0.1]:7055: Connection reset by peer")),
            "was closed",
        ),
        (RuntimeError(GLOO.format("pair.cc:801", "state_ >= CONNECTED. 1 vs 4. Pair is not connected")), "was closed"),
        (RuntimeError(GLOO.format("buffer.cc:78", "Timed out waiting 600000ms for recv operation")), "within 600 s"),
        (RuntimeError(GLOO.format("pair.cc:1", "Application timeout caused pair closure")), "answer in time"),
        (
            dist.DistBackendError(
                "NCCL error in: ProcessGroupNCCL.cpp:2, remote process exited or there was a network error, NCCL "
                "version 2.21.5\nncclRemoteError: A call failed possibly due to a network error or a remote process "
                "exiting prematurely."
            ),
            "was closed",
        ),
        (
            dist.DistBackendError(
                "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE) ran for "
                "600029 milliseconds before timing out."
            ),
            "answer in time",
        ),
        (dist.DistStoreError("wait timeout after 3000ms, keys: /default_pg/0//cuda//timeout_dump"), "within 3 s"),
        (dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), "was closed"),
    ],
)
def test_what_torch_says_of_a_lost_peer_is_known(error: BaseException, why: str) -> None:
    assert why in (explain_lost_peer(error) or "")
    wrapped = ValueError("an engine's own words")
    wrapped.__cause__ = error
    assert why in (explain_lost_peer(wrapped) or "")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        BrokenPipeError(32, "Broken pipe"),
        TimeoutError("timed out"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("upload failed: connection closed by peer"),
        DataError("reading gloo.txt failed"),
    ],
)
def test_other_errors_are_this_ranks_own(error: BaseException) -> None:
    assert explain_lost_peer(error) is None


def test_a_rank_alone_fails_as_ever() -> None:
    with pytest.raises(DataError, match=r"^damaged$"), ending_together(0, 1):
        raise DataError("damaged")
    with pytest.raises(ZeroDivisionError) as caught, ending_together(0, 1):
        _ = 1 / 0
    assert not hasattr(caught.value, "__notes__")


def test_the_kind_of_a_users_mistake_is_kept() -> None:
    with pytest.raises(DataError, match=r"^rank 3: damaged$"), ending_together(3, 4):
        raise DataError("damaged")


def test_a_lost_peer_is_one_sentence_without_the_long_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megadape.parallel.failure.GRACE", 0.0)
    with pytest.raises(TrainingError, match="rank 3 stops") as caught, ending_together(3, 4):
        raise RuntimeError(GLOO.format("pair.cc:553", "Connection closed by peer"))
    assert caught.value.__suppress_context__
