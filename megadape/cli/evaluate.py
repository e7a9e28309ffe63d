"""``megadape evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import DefaultsToRun, RunDir

Data = Annotated[
    Path | None,
    typer.Option(
        help="Another dataset's prefix, or the name of an evaluation set or of one of the run's blend; default: "
        "evaluation.sets, or else the run's own."
    ),
]

app = typer.Typer(cls=DefaultsToRun, no_args_is_help=True, help="Evaluate a run past its training length.")


@app.command("run")
def evaluate(
    run_dir: RunDir,
    lengths: Annotated[str | None, typer.Option(help="Comma-separated lengths; default: the run's settings.")] = None,
    mode: Annotated[str | None, typer.Option(help="fixed_target, last_k or all.")] = None,
    sequences: Annotated[int | None, typer.Option(min=1, help="At most how many sequences a length.")] = None,
    last_k: Annotated[int | None, typer.Option(min=1, help="At most how many predictions a sequence count.")] = None,
    data: Data = None,
    split: Annotated[
        str | None, typer.Option(help="train, valid or test; default: evaluation.split, which is valid unless set.")
    ] = None,
    positions: Annotated[bool | None, typer.Option(help="Also the loss at every stretch of positions.")] = None,
    passkey: Annotated[bool | None, typer.Option(help="Also whether a key in a long text is found again.")] = None,
) -> None:
    """Perplexity and bits per byte at many lengths: a table, a figure, JSON and CSV in RUN_DIR/evaluation.

    An evaluation that was killed goes on with the same command. What is measured, and how, is in the evaluation section
    of the run's settings.

    Example: megadape evaluate runs/demo --lengths 128,256,512,1024,2048,4096,8192
    """
    from megadape.console import open_console, progress_bars
    from megadape.studies.evaluate import EvaluationRequest, evaluate_and_write

    request = EvaluationRequest(
        run_dir, split, data, lengths, mode, sequences, last_k, positions=positions, passkey=passkey
    )
    console = open_console()
    with progress_bars(console) as bars:
        table, written = evaluate_and_write(request, bars)
    console.print(table)
    console.print(f"written: {', '.join(str(path) for path in written)}", markup=False)


@app.command("heads")
def evaluate_heads(
    run_dir: RunDir,
    layer: Annotated[int | None, typer.Option(min=0, help="Which layer, from 0; default: the middle one.")] = None,
    query: Annotated[int | None, typer.Option(min=0, help="Which position attends; default: the last.")] = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens of text.")] = 1024,
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
) -> None:
    """Draw score, static bias and DAPE correction against distance for every head of a layer.

    Example: megadape evaluate heads runs/demo --layer 2 --length 2048
    """
    from megadape.console import open_console
    from megadape.studies.evaluate import HeadsRequest, draw_run_heads

    written = draw_run_heads(HeadsRequest(run_dir, split, data, layer=layer, query=query, length=length))
    open_console().print(f"written: {', '.join(str(path) for path in written)}", markup=False)
