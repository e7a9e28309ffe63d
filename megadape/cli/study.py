"""``megadape study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import Overrides

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
    from megadape.studies.grid import choose_cells, read_study
    from megadape.studies.running import run_here, run_study

    study = read_study(study_file, overrides or [])
    cells = choose_cells(study, runs or [])
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
