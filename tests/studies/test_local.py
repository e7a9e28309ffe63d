"""Jobs in processes: results by name, progress, failures told, nothing left running."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megadape.errors import DataError, TrainingError
from megadape.studies.local import Job, Report, run_jobs


def double(value: int, report: Report) -> tuple[int, str]:
    report(1, 2, "half")
    return 2 * value, os.environ["OMP_NUM_THREADS"]


def wait_until(mark: str) -> None:
    while not Path(mark).exists():
        time.sleep(0.05)


def mistake(mark: str, report: Report) -> None:
    wait_until(mark)
    raise DataError("no text in a.txt")


def die(mark: str, report: Report) -> None:
    wait_until(mark)
    os._exit(9)


def wait_for_ever(mark: str, report: Report) -> None:
    Path(mark).write_text(str(os.getpid()))
    report(0, 1, "waiting")
    time.sleep(1000)


def test_results_and_progress_come_by_name() -> None:
    said: list[tuple[str, float, float, str]] = []
    jobs = [Job(f"job {n}", double, (n,)) for n in range(3)]
    results = run_jobs(jobs, 2, 1, lambda *told: said.append(told))
    assert results == {f"job {n}": (2 * n, "1") for n in range(3)}
    assert sorted(said) == [(f"job {n}", 1, 2, "half") for n in range(3)]


@pytest.mark.parametrize(
    ("function", "said"), [(mistake, "broken failed: no text in a.txt"), (die, "broken failed: .* exit code 9")]
)
def test_a_failing_job_is_told_and_the_others_are_stopped(
    function: Callable[..., None], said: str, tmp_path: Path
) -> None:
    mark = tmp_path / "pid"
    jobs = [Job("waiting", wait_for_ever, (str(mark),)), Job("broken", function, (str(mark),))]
    with pytest.raises(TrainingError, match=said):
        run_jobs(jobs, 2, 1, lambda *told: None)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
