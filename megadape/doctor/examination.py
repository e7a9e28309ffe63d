"""Makes the checks one after the other in a process of their own, and watches over it.

A check that takes its process down, or does not end in its time, is a problem of that name; the next one gets a new
process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe
from typing import IO, Self

from megadape.doctor.base import Check, Finding, Subject, bad, warn

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
"""Not for the worker: it is no rank of a run."""


def examine_all(
    checks: Sequence[Check], subject: Subject, told: Callable[[str], None] = lambda name: None
) -> Iterator[Finding]:
    """What all checks find, as they find it.

    Args:
        checks: in their order.
        subject: what is examined.
        told: hears the name of each check before it begins.
    """
    failed: set[str] = set()
    worker: Worker | None = None
    try:
        for check in checks:
            lacking = [name for name in check.needs if name in failed]
            if lacking:
                failed.add(check.name)
                yield warn(check.name, f"not looked at: it needs {', '.join(lacking)}", f"mend {lacking[0]} first")
                continue
            told(check.name)
            worker = worker or Worker(subject)
            findings = worker.ask(check)
            if worker.gone:
                worker.close()
                worker = None
            if any(finding.state == "problem" for finding in findings):
                failed.add(check.name)
            yield from findings
    finally:
        if worker is not None:
            worker.close()


class Worker:
    """The process that makes checks."""

    def __init__(self, subject: Subject) -> None:
        self.gone = False
        self._words = _scratch()
        self._connection, other = Pipe()
        about = json.dumps({"run_dir": str(subject.run_dir), "named": subject.named})
        environment = {key: value for key, value in os.environ.items() if key not in (*LAUNCHERS, *SLURM)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "megadape.doctor.worker", str(other.fileno()), about],
            pass_fds=[other.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=self._words,
            start_new_session=True,  # so that what a check has started goes with it
        )
        other.close()

    def ask(self, check: Check) -> list[Finding]:
        """Have a check made."""
        try:
            self._connection.send_bytes(check.name.encode())
            if not self._connection.poll(check.seconds):
                self.gone = True
                seen = f"did not end within {check.seconds:.0f} s"
                return [bad(check.name, seen, "see the problems above; else try again when the machine is less busy")]
            return [Finding(**each) for each in json.loads(self._connection.recv_bytes())]
        except (EOFError, OSError):
            self.gone = True
            return [bad(check.name, f"took its process down: {self._end()}", "see the problems above")]

    def close(self) -> None:
        """End it, and what it has started."""
        self._connection.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._words.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> str:
        """How the process ended, and the last that it said."""
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        return f"{how}{f' ({lines[-1]})' if lines else ''}"


def _scratch() -> IO[bytes]:
    """A file for what a worker says; where no temporary file can be made, nothing is kept."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "w+b")  # noqa: PTH123
