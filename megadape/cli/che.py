"""``megadape che``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import Overrides

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Study file, such as configs/studies/che.yaml.")]

app = typer.Typer(no_args_is_help=True, help="The 15 tasks of the Chomsky hierarchy: accuracy past training lengths.")


@app.command("run")
def che_run(
    study_file: StudyFile,
    experiments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT]...", help="By name (TASK/METHOD/seed-N) or its beginning; default all."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Side by side; default: one on each GPU, or on each CPU.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train and score every experiment of a study that is not done yet; the same command goes on.

    Nothing is run twice, and an experiment that fails does not stop the others; the next command tries it again.

    Example: megadape che run configs/studies/che-small.yaml

    Example: megadape che run configs/studies/che.yaml even_pairs/dape-kerple --at-once 4
    """
    from megadape.console import open_console, progress_bars
    from megadape.studies.batch import choose_named
    from megadape.studies.che.grid import read_che
    from megadape.studies.che.running import run_che

    study, console = read_che(study_file, overrides or []), open_console()
    cells = choose_named(study.cells, experiments or [], study.file)
    with progress_bars(console) as bars:
        failures = run_che(cells, at_once, bars)
    if failures:
        console.print(f"{len(failures)} experiments failed: {', '.join(failures)}; the same command tries them again")
        raise typer.Exit(1)
    console.print(f"all {len(cells)} experiments are done; now: megadape che report {study_file}", markup=False)


@app.command("status")
def che_status(study_file: StudyFile, overrides: Overrides = None) -> None:
    """How far a study is, and what failed.

    Example: megadape che status configs/studies/che-small.yaml
    """
    from megadape.console import make_table, open_console
    from megadape.studies.che.grid import read_che
    from megadape.studies.che.progress import failures, status_rows

    study, console = read_che(study_file, overrides or []), open_console()
    title = f"{study.settings.name}: {len(study.cells)} experiments"
    console.print(make_table(title, *status_rows(study.cells)))
    for sentence in failures(study.cells):
        console.print(sentence, markup=False)


@app.command("report")
def che_report(
    study_file: StudyFile,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: report/ in the study's.")] = None,
    overrides: Overrides = None,
) -> None:
    """The paper's table and accuracy against length of what is done: an HTML page, Markdown, CSV and a figure.

    Example: megadape che report configs/studies/che-small.yaml
    """
    from megadape.console import open_console
    from megadape.studies.che.grid import read_che
    from megadape.studies.che.report import report_che

    written = report_che(read_che(study_file, overrides or []), out)
    open_console().print(f"written: {', '.join(str(path) for path in written)}", markup=False)


@app.command("tasks")
def che_tasks(
    length: Annotated[int, typer.Option(min=1, max=1000, help="Symbols of the example.")] = 9,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the examples.")] = 0,
) -> None:
    """The tasks, each with an example.

    Example: megadape che tasks --length 12
    """
    from megadape.console import open_console
    from megadape.studies.che.examples import example_table

    open_console().print(example_table(length, seed))
