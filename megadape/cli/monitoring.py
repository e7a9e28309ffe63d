"""``megadape runs`` and ``megadape watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import RunDir


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders with runs in them, or runs; default: runs.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE.html", help="Draw their curves into one HTML page.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List runs: state, step, loss, speed, what is left; those that run or want help first.

    States: running; stalled (says so and gives no sign of life); failed; resumable (stopped or killed: the same command
    goes on); unknown (its folder does not tell); imported (not trained here yet); done.

    Example: megadape runs runs --page runs.html
    """
    import json

    from megadape.console import make_table, open_console
    from megadape.monitoring.listing import COLUMNS, list_runs, summary, table_rows
    from megadape.monitoring.listing import as_json as run_json

    found = list_runs(folders or [Path("runs")])
    if as_json:
        typer.echo(json.dumps([run_json(run) for run in found], indent=1))
    else:
        console = open_console()
        console.print(make_table("runs", COLUMNS, table_rows(found), words=("state", "why")))
        console.print(summary(found), markup=False)
    if page is not None:
        from megadape.monitoring.page import write_page

        write_page([run.run_dir for run in found], page)
        typer.echo(f"written: {page}", err=as_json)


def watch(
    run_dir: RunDir,
    once: Annotated[bool, typer.Option("--once", help="Show how it stands now, and end.")] = False,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE.html", help="Draw its curves into an HTML page, anew as it goes."),
    ] = None,
    every: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between lines (not in a terminal) and drawings.")
    ] = 10.0,
) -> None:
    """Follow a run until it ends: progress, loss, speed, memory; ends with the run's exit code (75 if it was killed).

    Example: megadape watch runs/demo
    """
    from megadape.console import open_console
    from megadape.monitoring.watching import watch as watch_run

    def draw() -> None:
        if page is not None:
            from megadape.monitoring.page import write_page

            write_page([run_dir], page)

    raise typer.Exit(watch_run(run_dir, open_console(), once=once, every=every, draw=draw))
