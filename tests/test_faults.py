"""Fault points do nothing unless asked, and exactly what is asked."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

import megadape
from megadape.errors import ConfigurationError
from megadape.faults import POINTS, VARIABLE, InjectedFault, reach
from megadape.testing import RankFailed, run_distributed

POINT = "checkpoint.before_flush"


def test_nothing_happens_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    reach(POINT)
    monkeypatch.setenv(VARIABLE, "checkpoint.after_flush=raise")
    reach(POINT)


def test_raise_and_disk_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{POINT}=raise")
    with pytest.raises(InjectedFault, match=POINT):
        reach(POINT)
    monkeypatch.setenv(VARIABLE, f" {POINT} = disk_full ".replace(" = ", "="))
    with pytest.raises(OSError, match="No space left") as error:
        reach(POINT)
    assert error.value.errno == errno.ENOSPC


def test_the_count_is_the_only_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{POINT}=raise@3")
    reach(POINT)
    reach(POINT)
    with pytest.raises(InjectedFault):
        reach(POINT)
    reach(POINT)


def test_a_rank_and_several_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{POINT}=raise#1; checkpoint.after_flush=disk_full")
    monkeypatch.setenv("RANK", "0")
    reach(POINT)
    with pytest.raises(OSError, match="No space left"):
        reach("checkpoint.after_flush")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(InjectedFault):
        reach(POINT)


def reach_with(fault: str) -> int:
    os.environ[VARIABLE] = fault
    reach(POINT)
    return 1


def test_kill_and_delay() -> None:
    with pytest.raises(RankFailed, match=f"exit code -{signal.SIGKILL.value}"):
        run_distributed(1, reach_with, f"{POINT}=kill")
    assert run_distributed(1, reach_with, f"{POINT}=delay:0.01") == [1]


MISTAKES = {
    "checkpoint.nowhere=kill": "there is no point checkpoint.nowhere",
    f"{POINT}=explode": "there is no action explode",
    f"{POINT}": "is not POINT=ACTION",
    f"{POINT}=delay": "delay needs its seconds",
    f"{POINT}=kill:3": "other actions take no value",
    f"{POINT}=kill@x": "is not POINT=ACTION",
}


@pytest.mark.parametrize(("fault", "said"), MISTAKES.items())
def test_a_mistake_is_told(fault: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, fault)
    with pytest.raises(ConfigurationError, match=said):
        reach(POINT)


def test_every_point_is_somewhere_in_the_code() -> None:
    sources = "".join(path.read_text() for path in Path(megadape.__file__).parent.rglob("*.py"))
    assert [point for point in POINTS if f'reach("{point}")' not in sources] == []
