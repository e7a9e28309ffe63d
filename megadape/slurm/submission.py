"""Submitting a run: everything that can be checked is, before Slurm is asked for a single node."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from megadape.config import load
from megadape.errors import ConfigurationError, SlurmError
from megadape.slurm.client import check_submission, submit_script
from megadape.slurm.fitting import check_fit
from megadape.slurm.lint import check_script
from megadape.slurm.script import Job, render
from megadape.slurm.site import SiteSettings
from megadape.slurm.starts import FOLDER, is_kill_switch, is_trained


@dataclass(frozen=True)
class Submission:
    """What was typed."""

    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    cluster: Path
    site_overrides: tuple[str, ...] = ()
    chain: int = 0
    """Links; 0: one job, which starts itself anew."""


@dataclass(frozen=True)
class Submitted:
    """What became of it."""

    jobs: tuple[str, ...]
    script: Path
    need: str
    """What it takes of a GPU."""
    advice: tuple[str, ...]
    """How to follow it, end it, go on."""


def read_site(cluster: Path, overrides: Sequence[str] = ()) -> SiteSettings:
    """A site's settings; ``ConfigurationError`` with all mistakes."""
    try:
        return load([cluster], overrides, root=SiteSettings)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("--set", "--site")) from error


def name_job(folder: Path, prefix: str = "") -> str:
    """Of the jobs of a run or a study: never the same for two folders, so that one waits for another of its own name
    alone."""
    path = folder.resolve()
    return f"{prefix}{re.sub(r'[^A-Za-z0-9._-]', '_', path.name)}-{sha256(str(path).encode()).hexdigest()[:6]}"


def render_run(submission: Submission, chain: str = "") -> str:
    """The script of a run; ``ConfigurationError`` where its settings or the site's are wrong."""
    run = load(submission.files, submission.overrides)
    site = read_site(submission.cluster, submission.site_overrides)
    overrides = [word for override in submission.overrides for word in ("--set", override)]
    words = (*map(str, submission.files), *overrides)
    return render(Job("pretrain", name_job(run.run_dir), words, chain), site)


def submit_run(submission: Submission) -> Submitted:
    """Check a run, and submit it.

    Raises:
        ConfigurationError: settings are wrong, or contradict each other.
        SlurmError: the run does not fit, is done, or has its kill switch on; the script or Slurm refuses.
    """
    run = load(submission.files, submission.overrides)
    site = read_site(submission.cluster, submission.site_overrides)
    stop_file = run.stop.file or run.run_dir / "STOP"
    if is_trained(run.run_dir, run.training.steps):
        raise SlurmError(f"{run.run_dir} is done: all {run.training.steps} steps are made")
    if is_kill_switch(stop_file):
        raise SlurmError(f"{stop_file} is there, and would end the job at once: remove it first")
    need = check_fit(submission.files, submission.overrides, site)
    script = render_run(submission, secrets.token_hex(4) if submission.chain else "")
    check_script(script, Path.cwd())
    # jobs of one name run one after the other: two at once would take the run from each other
    check_submission(script, ["--dependency=singleton"])
    path = keep_script(run.run_dir, "pretrain", script)
    jobs = tuple(submit_script(script, ["--dependency=singleton"]) for _ in range(submission.chain or 1))
    logs = run.run_dir / FOLDER / "logs"
    advice = (
        f"follow:  squeue --jobs {','.join(jobs)}; tail -F {logs}/*.log {run.run_dir / 'metrics.jsonl'}",
        f"save:    touch {run.run_dir / 'SAVE'}",
        f"stop:    touch {stop_file} (saves, and starts nothing anew), or scancel {' '.join(jobs)}",
        f"resume:  rm -f {stop_file}, and the same command again",
    )
    return Submitted(jobs, path, need, advice)


def keep_script(folder: Path, name: str, script: str) -> Path:
    """Keep what is submitted; ``SlurmError`` where the folder cannot be written."""
    path = folder / FOLDER / f"{name}.sbatch"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
    except OSError as error:
        raise SlurmError(f"run folder {folder} cannot be written: {error.strerror or error}") from error
    return path
