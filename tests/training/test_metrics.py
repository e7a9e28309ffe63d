"""metrics.jsonl holds every step once, wherever a run was killed and whatever the disk lost."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import TrainingError
from megadape.training.metrics import JsonLines, read_metrics

STEPS = 12


def steps_in(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


@dataclass(frozen=True)
class Kill:
    """How one start of a run ends: after so many steps, and what is lost of the bytes that no sync has put on the disk.

    A killed process loses at most the line that it was writing; a power cut any of the bytes since the last sync, or
    it leaves zeros or rubbish in their place.
    """

    steps: int
    lost: float
    filler: bytes


kills = st.builds(
    Kill,
    st.integers(0, STEPS),
    st.floats(0, 1),
    st.sampled_from([b"", b"\0\0\0", b"\0\n\0\n", b'{"step": 3}x\n', b'"a"\n']),
)


@given(st.lists(kills, max_size=5), st.integers(1, 5))
def test_every_step_stands_once_after_any_kills(ends: list[Kill], save_every: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, saved = Path(folder) / "metrics.jsonl", 0
        for end in [*ends, Kill(STEPS, 0.0, b"")]:
            metrics, durable = JsonLines(path, saved), path.stat().st_size
            for step in range(saved + 1, min(saved + end.steps, STEPS) + 1):
                metrics.log({"step": step, "loss": 1 / step, "note": "\u2028\x85 é"})
                if step % save_every == 0 or step == STEPS:
                    metrics.sync()
                    saved, durable = step, path.stat().st_size
            whole = path.read_bytes()
            kept = durable + round((1 - end.lost) * (len(whole) - durable))
            path.write_bytes(whole[:kept] + end.filler)
        rows = read_metrics(path)
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
        assert [row["loss"] for row in rows] == [1 / step for step in range(1, STEPS + 1)]


SCRIPT = """
import json, os, sys
from pathlib import Path
from megadape.training.metrics import JsonLines
folder = Path(sys.argv[1])
checkpoint = folder / "checkpoint"
saved = int(checkpoint.read_text()) if checkpoint.exists() else 0
metrics = JsonLines(folder / "metrics.jsonl", saved)
print("going", flush=True)
for step in range(saved + 1, 100_000):
    metrics.log({"step": step, "start": os.getpid()})
    if step % 7 == 0:
        metrics.sync()
        (folder / "new").write_text(str(step))
        (folder / "new").replace(checkpoint)
"""


def test_real_processes_killed_at_random_leave_a_file_that_goes_on(tmp_path: Path) -> None:
    """Three starts, killed without a warning."""
    moments = random.Random(7)
    for _ in range(3):
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        while not (tmp_path / "checkpoint").exists():
            assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        seen = steps_in(tmp_path / "metrics.jsonl")
        saved = int((tmp_path / "checkpoint").read_text())
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) >= saved
    metrics = JsonLines(tmp_path / "metrics.jsonl", saved)
    metrics.close()
    assert steps_in(tmp_path / "metrics.jsonl") == list(range(1, saved + 1))


def test_an_older_process_that_still_writes_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = JsonLines(path, 0)
    for step in (1, 2, 3):
        old.log({"step": step, "by": "old"})
    new = JsonLines(path, 2)
    old.log({"step": 4, "by": "old"})
    new.log({"step": 3, "by": "new"})
    old.close()
    new.close()
    assert [(row["step"], row["by"]) for row in read_metrics(path)] == [(1, "old"), (2, "old"), (3, "new")]


def test_a_step_that_stands_twice_counts_once_and_one_that_is_missing_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 2, 5, 4, 9)))
    with caplog.at_level(logging.WARNING):
        JsonLines(path, 6).close()
    assert steps_in(path) == [1, 2, 4, 5]
    assert "lacks 2 steps of the 6 made, from step 3" in caplog.text


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writing stops in the middle of a line, as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_in_the_middle_of_a_line_is_an_error_and_the_next_start_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = JsonLines(path, 0)
    metrics.log({"step": 1})
    with small_files(20), pytest.raises(TrainingError, match=r"metrics\.jsonl cannot be written: File too large"):
        metrics.log({"step": 2, "loss": 1.5})
    assert path.stat().st_size == 20
    metrics.close()
    metrics.close()
    again = JsonLines(path, 1)
    again.log({"step": 2})
    again.close()
    assert steps_in(path) == [1, 2]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]
