"""``megadape train``."""

from __future__ import annotations

from typing import Annotated

import typer

from megadape.cli.base import Files, Overrides


def train(
    files: Files,
    overrides: Overrides = None,
    stop_after_steps: Annotated[
        int | None, typer.Option("--stop-after-steps", min=1, help="Stop, saved and resumable, after so many steps.")
    ] = None,
    stop_after: Annotated[
        str | None,
        typer.Option("--stop-after", metavar="TIME", help="Stop, saved, resumable, after 3h55m, 90s, ..."),
    ] = None,
) -> None:
    """Train, or go on training: the same command on the same run_dir resumes.

    Ends with 0 when all steps are made, 75 when it was stopped and the same command goes on (SIGTERM, SIGUSR1, Ctrl-C,
    a time budget, the Slurm job's end, a file STOP in run_dir), 1 or 2 when it failed; outcome.json in run_dir says it.

    Example: megadape train configs/models/demo.yaml configs/positions/dape_kerple.yaml --set run_dir=runs/demo --set
        data.prefix=data/corpus
    """
    from megadape.config import dump_yaml, load
    from megadape.console import TrainingReporter, open_console, progress_bars
    from megadape.training.launch import train as train_run

    budget = [] if stop_after is None else [f"stop.after={stop_after}"]
    settings = load(files, (overrides or []) + budget)
    console = open_console()
    with progress_bars(console) as bars:
        reporter = TrainingReporter(bars, console, settings.logging.every)
        outcome = train_run(settings, dump_yaml(settings), reporter, stop_after_steps)
    raise typer.Exit(outcome.exit_code or 0)
