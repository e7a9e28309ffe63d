"""Fault points: named places at which a test can kill the process, delay it, or make it fail.

They do nothing unless the environment variable MEGADAPE_FAULT asks for it:

    MEGADAPE_FAULT='checkpoint.after_manifest=kill'            kill -9 this process there
    MEGADAPE_FAULT='checkpoint.before_write=delay:2.5@3'       sleep 2.5 s when it is reached for the third time
    MEGADAPE_FAULT='checkpoint.before_flush=disk_full#1'       "no space left on device", on rank 1 alone
    MEGADAPE_FAULT='checkpoint.before_rename=raise; ...'       several, apart by semicolons

Without @count, a fault happens every time. Shipped, so that users can prove that their own set-up survives.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from megadape.errors import ConfigurationError

VARIABLE = "MEGADAPE_FAULT"

POINTS = {
    "checkpoint.before_write": "the temporary folder is there, nothing is in it (every rank)",
    "checkpoint.before_tensor": "before each tensor is written (every rank that writes)",
    "checkpoint.before_flush": "a file of tensors is written, not flushed (every rank that writes)",
    "checkpoint.after_flush": "a file of tensors is flushed (every rank that writes)",
    "checkpoint.before_report": "a rank's files are flushed, it has not said so (every rank)",
    "checkpoint.after_report": "a rank has said which files it wrote (every rank)",
    "checkpoint.before_manifest": "everything is there but the manifest (first rank)",
    "checkpoint.after_manifest": "the manifest is flushed, the folder still has its temporary name (first rank)",
    "checkpoint.between_renames": "the folder that is to be replaced has moved out of the way (first rank)",
    "checkpoint.after_rename": "the folder has its name, its parent is not flushed (first rank)",
    "checkpoint.before_retention": "the checkpoint is there, older ones are not dropped yet (first rank)",
    "checkpoint.during_removal": "an old checkpoint has lost its name and still has its files (first rank)",
    "checkpoint.after_take_over": "this run has taken the checkpoints over, nothing is swept or read yet (first rank)",
    "preprocess.after_plan": "what is to be preprocessed is written down, nothing is done",
    "preprocess.before_encode": "before a block of the corpus is read and tokenized (the worker)",
    "preprocess.after_write": "the ids of a block are written, not flushed",
    "preprocess.before_flush": "a shard is done, its files are not flushed",
    "preprocess.before_mark": "the files of a shard are flushed, nothing says so",
    "preprocess.after_mark": "a shard is done and written down",
    "preprocess.before_manifest": "data and index are complete, the manifest is missing",
    "preprocess.after_complete": "all files are complete and have not their names",
    "preprocess.between_renames": "a file has its name, others have not",
    "preprocess.after_publish": "all files have their names, the folder in which they grew is there",
}
"""Every fault point of the library, and where it is."""

_FORM = re.compile(r"(?P<point>[\w.]+)=(?P<action>\w+)(:(?P<value>[\d.]+))?(@(?P<count>\d+))?(#(?P<rank>\d+))?")


class InjectedFault(RuntimeError):  # noqa: N818  (it reads as a sentence in a traceback)
    """What the action ``raise`` raises."""


def _kill(point: str, value: float) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may reach another thread first


def _delay(point: str, value: float) -> None:
    time.sleep(value)


def _raise(point: str, value: float) -> None:
    raise InjectedFault(f"fault injected at {point}")


def _disk_full(point: str, value: float) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"fault injected at {point}")


ACTIONS: dict[str, Callable[[str, float], None]] = {
    "kill": _kill,
    "delay": _delay,
    "raise": _raise,
    "disk_full": _disk_full,
}
"""Name -> what happens."""


@dataclass(frozen=True)
class _Fault:
    """One thing that shall happen."""

    point: str
    action: str
    value: float
    count: int | None
    rank: str | None


@dataclass
class _Plan:
    """What one value of the variable asks for, and how often each point has been reached since."""

    faults: tuple[_Fault, ...]
    reached: Counter[str] = field(default_factory=Counter)

    def reach(self, point: str) -> None:
        self.reached[point] += 1
        for fault in self.faults:
            here = fault.point == point and fault.rank in (None, os.environ.get("RANK", "0"))
            if here and fault.count in (None, self.reached[point]):
                ACTIONS[fault.action](point, fault.value)


def reach(point: str) -> None:
    """A place in the code where a fault can be injected; nothing happens unless the environment asks for it.

    Raises:
        ConfigurationError: the environment names a point or an action that there is not.
    """
    assert point in POINTS, f"{point} is not registered"
    text = os.environ.get(VARIABLE)
    if text:
        _plan(text).reach(point)


@lru_cache(maxsize=16)
def _plan(text: str) -> _Plan:
    return _Plan(tuple(_parse(part.strip()) for part in text.split(";") if part.strip()))


def _parse(text: str) -> _Fault:
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{VARIABLE}: {text!r} is not POINT=ACTION[:SECONDS][@COUNT][#RANK]")
    for kind, known in (("point", POINTS), ("action", ACTIONS)):
        if match[kind] not in known:
            raise ConfigurationError(f"{VARIABLE}: there is no {kind} {match[kind]}; there are {', '.join(known)}")
    if (match["action"] == "delay") != (match["value"] is not None):
        raise ConfigurationError(
            f"{VARIABLE}: delay needs its seconds (delay:2.5), other actions take no value: {text!r}"
        )
    count = int(match["count"]) if match["count"] else None
    return _Fault(match["point"], match["action"], float(match["value"] or 0), count, match["rank"])
