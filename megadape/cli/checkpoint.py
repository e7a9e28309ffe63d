"""``megadape checkpoint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import Overrides, refuse_given

app = typer.Typer(no_args_is_help=True, help="Look at checkpoints, verify and convert them.")

CheckpointPath = Annotated[Path, typer.Argument(help="Run folder, or one checkpoint like step-00001000.")]


@app.command("inspect")
def checkpoint_inspect(path: CheckpointPath) -> None:
    """Print what a checkpoint holds: step, layout, settings, versions, and every parameter with its shape.

    Example: megadape checkpoint inspect runs/demo
    """
    from megadape.checkpoint.inspection import COLUMNS, inspect_checkpoint
    from megadape.console import make_table, open_console

    console, inspection = open_console(), inspect_checkpoint(path)
    for what, value in inspection.facts:
        console.print(f"{what:14} {value}", markup=False)
    console.print(make_table("parameters", COLUMNS, inspection.tensors))


@app.command("verify")
def checkpoint_verify(
    path: CheckpointPath,
    full: Annotated[
        bool, typer.Option("--full", help="Read everything and compare digests; else sizes alone.")
    ] = False,
) -> None:
    """Say of a checkpoint, or of all of a run, whether it is sound; exit code 1 if one is not.

    Example: megadape checkpoint verify runs/demo --full
    """
    from megadape.checkpoint.inspection import verify

    verdicts = verify(path, full)
    for verdict in verdicts:
        typer.echo(str(verdict))
    if any(verdict.problem for verdict in verdicts):
        raise typer.Exit(1)


@app.command("convert")
def checkpoint_convert(
    source: Annotated[Path, typer.Argument(help="Run folder or checkpoint; with --from, another project's.")],
    out: Annotated[Path, typer.Argument(help="Folder for DeepSpeed's load_checkpoint; with --from, a run folder.")],
    family: Annotated[
        str | None, typer.Option("--from", metavar="PROJECT", help="gpt-neox, megatron-lm or megatron-core.")
    ] = None,
    settings: Annotated[
        list[Path] | None, typer.Option("--settings", help="With --from: settings of the model that it is; repeatable.")
    ] = None,
    overrides: Overrides = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="THEIRS=OURS", help="With --from: a further name, within a block; repeatable."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Read pickles, which can run any code of whoever wrote them.")
    ] = False,
) -> None:
    """Write a checkpoint in DeepSpeed's universal form, or make one of Megatron's or GPT-NeoX's parameters.

    Example: megadape checkpoint convert runs/demo universal

    Example: megadape checkpoint convert global_step143000 runs/pythia --from gpt-neox --settings pythia.yaml --trust
    """
    from megadape.checkpoint.convert import convert_to_universal

    if family is None:
        foreign = {"--settings": settings, "--set": overrides, "--map": names, "--trust": trust}
        refuse_given(foreign, "is for another project's checkpoint: give --from as well, or leave it out")
        typer.echo(f"written: {convert_to_universal(source, out)}")
        return
    from megadape.config import load
    from megadape.training.importing import import_checkpoint

    # a conversion has neither data nor a run of its own, but settings want them named
    run = load(settings or [], [f"run_dir={out}", "data.prefix=none", *(overrides or [])])
    typer.echo(f"written: {import_checkpoint(source, out, family, run.architecture, trust, names or [])}")
