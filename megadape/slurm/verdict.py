"""What a job does when its ranks have ended: it is over, or it starts itself anew.

Exit codes of srun say little (a rank that ends with 7 shows as 143 when its peers are killed for it), so that what the
run itself left in outcome.json counts, if this very start wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megadape.slurm.starts import Step, check_progress, end_chain, is_kill_switch, name_chain, own_job, read_starts
from megadape.training.supervision.outcome import DONE, FAILED, MISTAKE, RESUMABLE, Outcome, read_outcome


@dataclass(frozen=True)
class Ending:
    """How the ranks of a start ended, as the script saw it."""

    run_dir: Path
    stop_file: Path
    status: int
    """Of srun."""
    lost_node: bool
    """A node of the job no longer starts processes."""
    chain: str
    """Of which the job is a link: it leaves it to the next one to go on; "": the job starts itself anew."""
    max_restarts: int
    max_stalls: int
    done_file: Path | None = None
    """Where given, a run is done only if this is there too."""


def judge(ending: Ending, environment: Mapping[str, str]) -> Step:
    """What to do next; a chain that failed is marked so.

    Raises:
        SlurmError: outside of a job.
        OSError: the run folder cannot be written.
    """
    job = own_job(environment)
    newest = next(reversed(read_starts(ending.run_dir)), None)
    if newest is not None and newest.job != job:
        return Step(False, FAILED, f"{ending.run_dir} was taken over by {newest.job}: {job} has nothing more to say")
    chain = name_chain(ending.chain, environment)
    step = _judge(ending, job, chain, int(environment.get("SLURM_RESTART_COUNT", "0")))
    if ending.chain and not step.go and step.exit_code not in (DONE, RESUMABLE):
        end_chain(ending.run_dir, chain, step)
    return step


def _judge(ending: Ending, job: str, chain: str, restarts: int) -> Step:
    outcome = read_outcome(ending.run_dir)
    own = outcome if outcome is not None and outcome.job == job else None
    if own is not None and own.state == "done" and (ending.done_file is None or ending.done_file.exists()):
        return Step(False, DONE, own.reason)
    reason = _reason_to_go_on(ending, own, job)
    if reason is None:
        return _failed(ending, own)
    if is_kill_switch(ending.stop_file):
        return Step(False, RESUMABLE, f"{ending.stop_file} is there: remove it, and submit again to go on")
    stalled = check_progress(ending.run_dir, chain, ending.max_stalls)
    if stalled is not None:
        return stalled
    if ending.chain:
        return Step(False, RESUMABLE, f"{reason}; the next link goes on")
    if restarts >= ending.max_restarts:
        return Step(False, RESUMABLE, f"{reason}; started anew {restarts} times, which is enough: submit again")
    return Step(True, RESUMABLE, reason)


def _reason_to_go_on(ending: Ending, own: Outcome | None, job: str) -> str | None:
    """Why a run that is not done may simply go on; None: it failed, and would fail again."""
    asked = _asked_to_stop(ending.stop_file, job)
    if own is not None and own.state == "resumable":
        return f"saved at step {own.step}, as Slurm asked" if asked else own.reason
    if ending.lost_node:
        return "a node was lost"
    if asked and (own is None or own.state == "running"):
        return "killed before it could save"
    return None


def _asked_to_stop(stop_file: Path, job: str) -> bool:
    try:
        return stop_file.read_text(errors="replace").strip() == job
    except OSError:
        return False


def _failed(ending: Ending, own: Outcome | None) -> Step:
    if own is not None and own.state == "failed":
        return Step(False, own.exit_code or FAILED, own.reason)
    if ending.status == MISTAKE:
        return Step(False, MISTAKE, "the settings, the data or the run folder must be mended first")
    if own is not None and own.state == "running":
        return Step(False, FAILED, f"a rank was killed or crashed (srun says {ending.status})")
    return Step(False, FAILED, f"it ended before it had begun (srun says {ending.status})")
