"""A study as an array of jobs, one task a run, and a job behind it that writes the report.

The number of a task is that of its run among ``Study.cells``, so that an array names the runs that are not done yet and
nothing else has to be remembered: the same command, given again, submits what is missing then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megadape.console import Bars
from megadape.errors import ConfigurationError, SlurmError
from megadape.slurm.client import call, check_submission, submit_script
from megadape.slurm.fitting import check_layout
from megadape.slurm.lint import check_script
from megadape.slurm.script import Job, render
from megadape.slurm.site import SiteSettings
from megadape.slurm.submission import keep_script, name_job, read_site
from megadape.studies.cell import is_done
from megadape.studies.grid import Cell, Study
from megadape.studies.running import prepare_study
from megadape.training.identity import with_vocabulary


@dataclass(frozen=True)
class StudySubmission:
    """What was typed."""

    study: Study
    overrides: tuple[str, ...]
    cells: tuple[Cell, ...]
    """Those that are wanted."""
    cluster: Path
    site_overrides: tuple[str, ...]
    at_once: int
    """Tasks that may run side by side."""


@dataclass(frozen=True)
class SubmittedStudy:
    """What became of it."""

    array: str
    """Job of the array."""
    report: str
    """Job of the report."""
    cells: tuple[Cell, ...]
    """Those that were submitted."""
    script: Path


def submit_study(submission: StudySubmission, bars: Bars) -> SubmittedStudy:
    """Submit the runs that are not done, and the report.

    Raises:
        ConfigurationError: settings are wrong.
        SlurmError: all runs are done, some are in the queue already, one does not fit, or Slurm refuses.
    """
    study, site = submission.study, read_site(submission.cluster, submission.site_overrides)
    todo = tuple(cell for cell in submission.cells if not is_done(cell))
    if not todo:
        raise SlurmError(f"all {len(submission.cells)} runs are done; now: megadape study report {study.file}")
    folder = study.settings.folder
    job = Job("study", name_job(folder, "study-"), words=_words(submission))
    queued = call(["squeue", "--noheader", "--me", f"--name={job.name}", "--format=%i"]).split()
    if queued:
        raise SlurmError(f"the study is in the queue already, as job {', '.join(queued)}: wait, or scancel it first")
    prepare_study(study, bars)
    check_cells(todo, site)
    script, report = render(job, site), render(replace(job, single=True), site)
    array = f"--array={format_array([study.cells.index(cell) for cell in todo])}%{submission.at_once}"
    for text, options in ((script, [array]), (report, [])):
        check_script(text, Path.cwd())
        check_submission(text, options)
    path = keep_script(folder, "study", script)
    first = submit_script(script, [array])
    last = submit_script(report, [f"--dependency=afterany:{first}"])
    return SubmittedStudy(first, last, todo, path)


def take_cell(study: Study, index: int) -> Cell:
    """The run of a task; ``ConfigurationError`` where there is none."""
    if index >= len(study.cells):
        raise ConfigurationError(f"{study.file} has {len(study.cells)} runs, numbered from 0: there is no run {index}")
    return study.cells[index]


def _words(submission: StudySubmission) -> tuple[str, ...]:
    overrides = [word for override in submission.overrides for word in ("--set", override)]
    return (str(submission.study.file), *overrides)


def check_cells(cells: Sequence[Cell], site: SiteSettings) -> None:
    """Refuse runs that do not fit a task; of those that differ in their seed alone one is looked at.

    Raises:
        ConfigurationError: the message names the run.
    """
    for cell in {(cell.size, cell.training_length, cell.method): cell for cell in cells}.values():
        prefixes = [part.prefix for part in cell.run.data.parts]
        try:
            check_layout(cell.run, with_vocabulary(cell.run.architecture, prefixes), site)
        except (ConfigurationError, SlurmError) as error:
            raise ConfigurationError(f"{cell.name}: {error}") from error


def format_array(numbers: Sequence[int]) -> str:
    """Numbers, rising, as sbatch takes them: 0-3,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
