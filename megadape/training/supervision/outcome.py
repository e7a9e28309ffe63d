"""How a start of a run ended: the exit code, and the same in a file.

Launchers change exit codes (srun --kill-on-bad-exit shows 143 for whatever a rank said), so that scripts read
run_dir/outcome.json instead:

    {"state": "resumable", "exit_code": 75, "step": 1200, "reason": "SIGUSR1 on rank 3", "time": "...", "job": "1234.0"}

While a run goes on its state is "running", and its exit code null: what is killed before it can say how it ended leaves
that behind.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from megadape.errors import TrainingError
from megadape.training.supervision.job_end import incarnation
from megadape.training.supervision.json_files import read_json, replace_json

DONE = 0
"""All steps are made; starting again would do nothing."""

FAILED = 1
"""Starting again would fail again, or nobody knows (a hang, a bug)."""

MISTAKE = 2
"""Failed, and the message says what to mend: settings, data, folders."""

RESUMABLE = 75
"""Saved and stopped on request: the same command goes on (EX_TEMPFAIL of sysexits.h)."""

INTERRUPTED = 130
"""Interrupted at once by a second Ctrl-C: the same command goes on from the newest checkpoint."""

State = Literal["running", "done", "resumable", "failed"]
FILE = "outcome.json"

_CODES: dict[State, int | None] = {"running": None, "done": DONE, "resumable": RESUMABLE, "failed": FAILED}


@dataclass(frozen=True)
class Outcome:
    """How far a run came, and why it stopped there."""

    state: State
    exit_code: int | None
    """None while it runs."""
    step: int
    reason: str
    time: str
    """When this was written, UTC, ISO 8601."""
    job: str | None
    """JOB.RESTARTS of the Slurm job."""


def make_outcome(state: State, step: int, reason: str) -> Outcome:
    """An outcome of now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Outcome(state, _CODES[state], step, reason, now, incarnation(os.environ))


def write_outcome(run_dir: Path, state: State, step: int, reason: str) -> Outcome:
    """Say how a run stands; for the first rank, or for whichever is left to say it.

    Args:
        run_dir: its folder.
        state: "running" at the start.
        step: updates made.
        reason: a few words for people.

    Raises:
        TrainingError: the folder cannot be written.
    """
    outcome = make_outcome(state, step, reason)
    if _is_outdated(outcome, read_outcome(run_dir)):
        return outcome  # a later start of the same job has the word
    try:
        replace_json(run_dir / FILE, asdict(outcome))
    except OSError as error:
        raise TrainingError(f"{run_dir / FILE} cannot be written: {error.strerror or error}") from error
    return outcome


def _is_outdated(outcome: Outcome, there: Outcome | None) -> bool:
    """Whether a later restart of the same Slurm job has written already: ranks of this one lived on, on a lost node."""
    if outcome.job is None or there is None or there.job is None:
        return False
    (job, restart), (other, later) = outcome.job.split("."), there.job.split(".")
    return job == other and int(restart) < int(later)


def read_outcome(run_dir: Path) -> Outcome | None:
    """What a run last said; None where it never did."""
    content = read_json(run_dir / FILE)
    if content is None or content.keys() != Outcome.__annotations__.keys():
        return None
    return Outcome(**content)
