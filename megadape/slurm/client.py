"""Slurm's own commands."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from megadape.errors import SlurmError

SECONDS = 120.0
"""A busy controller takes its time."""


def call(words: Sequence[str], text: str | None = None) -> str:
    """What a command prints.

    Args:
        words: the command.
        text: its standard input.

    Raises:
        SlurmError: it is not installed, gives no answer, or refuses, and why.
    """
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError as error:
        raise SlurmError(f"there is no {words[0]} here: do this on a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{words[0]} gives no answer within {SECONDS:.0f} s: try again") from error
    if done.returncode:
        raise SlurmError(f"{words[0]} refuses: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def check_submission(script: str, options: Sequence[str] = ()) -> None:
    """Ask Slurm whether it would take a script, without submitting it; ``SlurmError`` where it would not."""
    call(["sbatch", "--test-only", *options], script)


def submit_script(script: str, options: Sequence[str] = ()) -> str:
    """Submit; the job's number.

    Raises:
        SlurmError: Slurm refuses.
    """
    # the cluster's name follows a semicolon where there are several
    return call(["sbatch", "--parsable", *options], script).strip().partition(";")[0]
