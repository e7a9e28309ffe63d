"""What a batch script asks before it starts the ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megadape.config.run import RunSettings
from megadape.errors import SlurmError
from megadape.slurm.record import record_environment
from megadape.slurm.starts import Step, is_kill_switch, look_before, name_chain, note_start


@dataclass(frozen=True)
class Beginning:
    """Where a script's ranks work, or why they do not."""

    step: Step
    run_dir: Path
    stop_file: Path


def begin(
    run: RunSettings, done: bool, chain: str, max_stalls: int, environment: Mapping[str, str] = os.environ
) -> Beginning:
    """Look whether there is anything to do; if so note the start, and what it runs with.

    Args:
        run: settings.
        done: everything is made.
        chain: of which the job is a link; "": none.
        max_stalls: starts without progress that end it.
        environment: of the job.

    Raises:
        SlurmError: outside of a job, or the run folder cannot be written.
    """
    run_dir = run.run_dir.resolve()
    stop_file = (run.stop.file or run_dir / "STOP").resolve()
    own = name_chain(chain, environment)
    step = look_before(run_dir, stop_file, done, own, max_stalls)
    if step.go:
        try:
            record_environment(run_dir, environment)
        except OSError as error:
            raise SlurmError(f"run folder {run_dir} cannot be written: {error.strerror or error}") from error
        note_start(run_dir, own, environment)
        if not is_kill_switch(stop_file):  # a start that was killed left it
            stop_file.unlink(missing_ok=True)
    return Beginning(step, run_dir, stop_file)
