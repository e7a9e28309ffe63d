"""Jobs in processes: results by name, progress, failures told, nothing left running."""

from __future__ import annotations

import os
import signal
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


def test_with_somebody_to_tell_the_others_go_on() -> None:
    told: list[tuple[str, object]] = []
    jobs = [Job("broken", mistake, ("/",)), Job("dead", die, ("/",)), Job("whole", double, (3,))]
    results = run_jobs(
        jobs,
        1,
        1,
        lambda *_: None,
        on_result=lambda name, value: told.append((name, value)),
        on_failure=lambda name, why: told.append((name, why)),
    )
    assert results == {"whole": (6, "1")}
    assert told == [
        ("broken", "no text in a.txt"),
        ("dead", "its process ended with exit code 9"),
        ("whole", (6, "1")),
    ]


def name_slot(report: Report) -> str:
    return os.environ["SLOT"]


def test_what_runs_at_once_has_slots_of_its_own() -> None:
    jobs = [Job(f"job {n}", name_slot, ()) for n in range(4)]
    slots = run_jobs(jobs, 2, 1, lambda *_: None, slots=[{"SLOT": "a"}, {"SLOT": "b"}])
    assert {slots["job 0"], slots["job 1"]} == {"a", "b"}
    assert set(slots.values()) == {"a", "b"}


def save_when_stopped(mark: str, report: Report) -> None:
    def stop(number: int, frame: object) -> None:
        Path(mark).write_text("saved")
        raise SystemExit

    signal.signal(signal.SIGTERM, stop)
    report(0, 1, "ready")
    time.sleep(1000)


def test_jobs_that_are_stopped_can_save_what_they_have(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    mark = tmp_path / "mark"
    with pytest.raises(KeyboardInterrupt):
        run_jobs([Job("long", save_when_stopped, (str(mark),))], 1, 1, interrupt)
    assert mark.read_text() == "saved"
