"""``megadape study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import Overrides
from megadape.cli.slurm import Chain, ClusterFile, MaxStalls, SiteOverrides

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Study file, such as configs/studies/*.yaml.")]

app = typer.Typer(no_args_is_help=True, help="Compare position encodings over lengths, seeds and sizes.")


@app.command("run")
def study_run(
    study_file: StudyFile,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs by name, as status names them, or their beginning; default all."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side; default: one on each GPU, or on each CPU.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="One run in this process and its ranks, for torchrun and srun.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Train and evaluate every run of a study that is not done yet; the same command goes on.

    Nothing is run twice, and a run that fails does not stop the others; it is tried again by the next command.

    Example: megadape study run configs/studies/cpu-small.yaml

    Example: megadape study run configs/studies/cpu-small.yaml base-128/dape-kerple --at-once 2
    """
    from megadape.console import open_console, progress_bars
    from megadape.studies.batch import choose_named
    from megadape.studies.grid import read_study
    from megadape.studies.running import run_here, run_study

    study = read_study(study_file, overrides or [])
    cells = choose_named(study.cells, runs or [], study.file)
    console = open_console()
    with progress_bars(console) as bars:
        if here:
            run_here(study, cells, bars)
            return
        failures = run_study(study, cells, at_once, bars)
    if failures:
        console.print(f"{len(failures)} runs failed: {', '.join(failures)}; the same command tries them again")
        raise typer.Exit(1)
    console.print(f"all {len(cells)} runs are done; now: megadape study report {study_file}", markup=False)


@app.command("submit")
def study_submit(
    study_file: StudyFile,
    cluster: ClusterFile,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs by name, as status names them, or their beginning; default all."),
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Runs side by side, each on the nodes of a job.")] = 8,
    overrides: Overrides = None,
    site: SiteOverrides = None,
) -> None:
    """Submit the runs that are not done yet to Slurm, as an array, and a job behind it that writes the report.

    The same command, given again, submits only what is missing then.

    Example: megadape study submit configs/studies/paper-125m-arxiv.yaml --cluster configs/clusters/h100.yaml
    """
    from megadape.console import open_console, progress_bars
    from megadape.studies.batch import choose_named
    from megadape.studies.grid import read_study
    from megadape.studies.submission import StudySubmission, submit_study

    chosen = tuple(overrides or ())
    study = read_study(study_file, chosen)
    cells = choose_named(study.cells, runs or [], study.file)
    submission = StudySubmission(study, chosen, cells, cluster, tuple(site or ()), at_once)
    console = open_console()
    with progress_bars(console) as bars:
        submitted = submit_study(submission, bars)
    console.print(
        f"submitted: {len(submitted.cells)} runs as job {submitted.array}, {at_once} at once, and the report as job "
        f"{submitted.report}; script: {submitted.script}\nfollow: squeue --jobs {submitted.array},{submitted.report}; "
        f"megadape study status {study_file}\nstop:   scancel {submitted.array}; the same command goes on",
        markup=False,
    )


@app.command("begin", hidden=True)
def study_begin(
    study_file: StudyFile,
    index: Annotated[int, typer.Option("--index", min=0, help="Of the run, from 0.")],
    overrides: Overrides = None,
    chain: Chain = "",
    max_stalls: MaxStalls = 3,
) -> None:
    """For the scripts: print run folder, stop file and name of a run; nothing, where there is nothing to do."""
    from megadape.slurm.batch import begin
    from megadape.studies.cell import is_done
    from megadape.studies.grid import read_study
    from megadape.studies.submission import take_cell

    cell = take_cell(read_study(study_file, overrides or []), index)
    begun = begin(cell.run, is_done(cell), chain, max_stalls)
    if begun.step.go:
        typer.echo(f"{begun.run_dir}\n{begun.stop_file}\n{cell.name}")
    else:
        typer.echo(begun.step.reason, err=True)
    raise typer.Exit(begun.step.exit_code)


@app.command("status")
def study_status(study_file: StudyFile, overrides: Overrides = None) -> None:
    """How far a study is, what it took, and what failed.

    Example: megadape study status configs/studies/cpu-small.yaml
    """
    from megadape.console import make_table, open_console
    from megadape.studies.grid import read_study
    from megadape.studies.progress import look_at, status_rows, status_sentences

    study, console = read_study(study_file, overrides or []), open_console()
    progress = [look_at(cell) for cell in study.cells]
    console.print(make_table(f"{study.settings.name}: {len(progress)} runs", *status_rows(progress)))
    for sentence in status_sentences(progress):
        console.print(sentence, markup=False)


@app.command("report")
def study_report(
    study_file: StudyFile,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: report/ in the study's.")] = None,
    overrides: Overrides = None,
) -> None:
    """Tables, statistics and figures of what is done, as one HTML page, Markdown and CSV files.

    Example: megadape study report configs/studies/cpu-small.yaml
    """
    from megadape.console import open_console, progress_bars
    from megadape.studies.grid import read_study
    from megadape.studies.reporting import report_study

    study, console = read_study(study_file, overrides or []), open_console()
    with progress_bars(console) as bars:
        written = report_study(study, out, bars)
    console.print(f"written: {', '.join(str(path) for path in written)}", markup=False)
