"""The ``megadape`` command: no logic, one file a command or group of commands, and imports inside each command, so that
--help is quick."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Annotated

import typer

from megadape.cli import (
    che,
    checkpoint,
    config,
    data,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    monitoring,
    plan,
    preprocess,
    slurm,
    study,
    train,
)
from megadape.cli.base import PlainErrors, open_closed_streams
from megadape.machine import is_first_rank

app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo.demo,
    preprocess.preprocess,
    train.train,
    generate.generate,
    export.export,
    plan.plan,
    doctor.doctor,
    monitoring.runs,
    monitoring.watch,
):
    app.command()(command)
app.command("import")(export.import_)
for name, group in (
    ("che", che),
    ("checkpoint", checkpoint),
    ("config", config),
    ("data", data),
    ("evaluate", evaluate),
    ("slurm", slurm),
    ("study", study),
):
    app.add_typer(group.app, name=name)


def main() -> None:
    """The console script."""
    open_closed_streams()
    # what ends a job politely ends it as Ctrl-C does: temporary files are removed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # of several ranks the first alone tells what it does; all of them tell what goes wrong
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if is_first_rank():
        logging.getLogger("megadape").setLevel(logging.INFO)
    app()


@app.callback()
def launched(
    local_rank: Annotated[
        int | None,
        typer.Option("--local_rank", hidden=True, help="What the DeepSpeed launcher gives; LOCAL_RANK counts."),
    ] = None,
) -> None:
    """GPTs with data-adaptive positional encoding: preprocess, train, evaluate past the training length."""
