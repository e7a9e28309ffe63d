"""The starts of a run under Slurm, and whether there is anything to do in another one.

A run is started over and over: by a job that requeues itself, by Slurm after a preemption or the loss of a node, by the
links of a chain. Each start notes the step of the newest checkpoint that it finds. So many starts one after another
that find the same step end the run: it would go on for ever without getting anywhere.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from megadape.errors import SlurmError
from megadape.training.supervision.job_end import incarnation
from megadape.training.supervision.json_files import read_json, replace_json
from megadape.training.supervision.outcome import DONE, FAILED, RESUMABLE, read_outcome

FOLDER = "slurm"
_OF_ONE_START = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Start:
    """One start."""

    job: str
    """JOB.RESTARTS."""
    chain: str
    """Which submission it belongs to: starts of another one do not count against it."""
    step: int
    """Of the newest checkpoint that it found."""
    time: str
    host: str


@dataclass(frozen=True)
class Step:
    """What a job does next."""

    go: bool
    """Start, or start anew; else the job ends."""
    exit_code: int
    """Of the job, where it ends."""
    reason: str
    """For people."""


def own_job(environment: Mapping[str, str]) -> str:
    """JOB.RESTARTS; ``SlurmError`` outside of a job."""
    job = incarnation(environment)
    if job is None:
        raise SlurmError("SLURM_JOB_ID is not set: this command is for the scripts of jobs")
    return job


def name_chain(chain: str, environment: Mapping[str, str]) -> str:
    """A job that is no link of a chain is one for itself, with all its starts; ``SlurmError`` outside of a job."""
    return chain or f"job-{own_job(environment).partition('.')[0]}"


def newest_step(run_dir: Path) -> int:
    """Of the newest checkpoint, by its name alone: it must be quick, and loads no torch; 0 where there is none."""
    names = [path.name for path in (run_dir / "checkpoints").glob("step-*")]
    return max((int(name[5:]) for name in names if name[5:].isdecimal()), default=0)


def read_starts(run_dir: Path) -> list[Start]:
    """All starts so far, oldest first; a last line that was cut short is left out."""
    try:
        lines = (run_dir / FOLDER / "starts.jsonl").read_text().splitlines()
    except OSError:
        return []
    starts = []
    for line in lines:
        try:
            starts.append(Start(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return starts


def note_start(run_dir: Path, chain: str, environment: Mapping[str, str]) -> None:
    """Add this start; ``SlurmError`` where the run folder cannot be written."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    start = Start(own_job(environment), chain, newest_step(run_dir), now, socket.gethostname())
    try:
        (run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        with (run_dir / FOLDER / "starts.jsonl").open("a") as file:
            file.write(json.dumps(asdict(start)) + "\n")
    except OSError as error:
        raise SlurmError(f"run folder {run_dir} cannot be written: {error.strerror or error}") from error


def count_stalls(starts: Sequence[Start], chain: str, step: int) -> int:
    """The newest starts of a chain, one after another, that found the checkpoint that is still the newest."""
    count = 0
    for start in reversed([start for start in starts if start.chain == chain]):
        if start.step != step:
            break
        count += 1
    return count


def is_kill_switch(file: Path) -> bool:
    """Whether a stop file ends every start, not one that it names."""
    try:
        text = file.read_text(errors="replace").strip()
    except OSError:
        return False
    return _OF_ONE_START.fullmatch(text) is None


def is_trained(run_dir: Path, steps: int) -> bool:
    """Whether all steps were made."""
    outcome = read_outcome(run_dir)
    return outcome is not None and outcome.state == "done" and outcome.step >= steps


def end_chain(run_dir: Path, chain: str, step: Step) -> None:
    """Tell later links of a chain that it is over."""
    replace_json(run_dir / FOLDER / "ended.json", {"chain": chain, "exit_code": step.exit_code, "reason": step.reason})


def look_before(run_dir: Path, stop_file: Path, done: bool, chain: str, max_stalls: int) -> Step:
    """Whether to start.

    Args:
        run_dir: folder of the run.
        stop_file: its kill switch.
        done: everything is made.
        chain: which submission this is.
        max_stalls: starts without progress that end it.
    """
    if done:
        return Step(False, DONE, f"{run_dir} is done: nothing is left to do")
    if is_kill_switch(stop_file):
        return Step(False, RESUMABLE, f"{stop_file} is there: remove it, and submit again to go on")
    ended = read_json(run_dir / FOLDER / "ended.json")
    if ended is not None and ended.get("chain") == chain:
        return Step(False, int(ended.get("exit_code", FAILED)), f"an earlier link ended the chain: {ended['reason']}")
    stalls = count_stalls(read_starts(run_dir), chain, newest_step(run_dir))
    if stalls >= max_stalls:
        return Step(False, FAILED, _describe_stalls(run_dir, stalls))
    return Step(True, DONE, "")


def _describe_stalls(run_dir: Path, stalls: int) -> str:
    return (
        f"{stalls} starts one after another brought {run_dir} no further than step {newest_step(run_dir)}: look at "
        f"{run_dir / FOLDER / 'logs'}; a save or a step may take longer than a job lasts"
    )


def check_progress(run_dir: Path, chain: str, max_stalls: int) -> Step | None:
    """The end of a run that gets nowhere; None while it does."""
    stalls = count_stalls(read_starts(run_dir), chain, newest_step(run_dir))
    return None if stalls < max_stalls else Step(False, FAILED, _describe_stalls(run_dir, stalls))
