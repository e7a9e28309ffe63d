"""When the Slurm job that holds this run ends, and which start of the job this is."""

from __future__ import annotations

import logging
import re
import subprocess
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)

SQUEUE_SECONDS = 30.0
"""A busy controller takes its time; a run does not wait for it for ever."""

_LEFT = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")


def incarnation(environment: Mapping[str, str]) -> str | None:
    """JOB.RESTARTS of the Slurm job, such as 1234.0; None outside of one."""
    job = environment.get("SLURM_JOB_ID")
    return None if job is None else f"{job}.{environment.get('SLURM_RESTART_COUNT', '0')}"


def seconds_left(environment: Mapping[str, str]) -> float | None:
    """Seconds until the Slurm job reaches its time limit; None where there is no job, no limit, or no answer.

    Newer versions of Slurm set SLURM_JOB_END_TIME; for others squeue is asked, so call it on one rank alone.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    end = environment.get("SLURM_JOB_END_TIME", "")
    if end.isdecimal():
        return int(end) - time.time()
    return _ask_squeue(environment)


def _ask_squeue(environment: Mapping[str, str]) -> float | None:
    job = environment["SLURM_JOB_ID"]
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
    try:
        answer = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("squeue does not say when job %s ends (%s): stop by --stop-after or by a signal", job, error)
        return None
    return parse_left(answer.stdout)


def parse_left(text: str) -> float | None:
    """Seconds from squeue's %L: DAYS-HH:MM:SS, HH:MM:SS, MM:SS; None for UNLIMITED, INVALID and the like."""
    match = _LEFT.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
