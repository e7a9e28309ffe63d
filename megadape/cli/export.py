"""``megadape export`` and ``megadape import``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import RunDir


class Target(StrEnum):
    """Whose libraries load the folder."""

    HF = "hf"


class Dtype(StrEnum):
    """What weights are written in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def export(
    run_dir: RunDir,
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    to: Annotated[Target, typer.Option(help="Whose libraries load it: hf, Hugging Face's transformers.")] = Target.HF,
    step: Annotated[int | None, typer.Option(min=0, help="Which checkpoint; default: the newest sound one.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the weights; default: float32, or what the run was imported in.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="Of the weights, for the model card; default: unknown.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace all of a folder that is not empty.")] = False,
    max_shard_size: Annotated[str, typer.Option(help="Of a file of weights: 500MB, 5GB, ...")] = "5GB",
) -> None:
    """Write a model, its tokenizer, its code and a model card into a folder that transformers loads without megadape.

    The exported logits are compared with the run's own, up to four training lengths, before the folder appears.

    Example: megadape export runs/demo exported/demo --license apache-2.0
    """
    from megadape.export.exporting import ExportRequest, export_run

    done = export_run(
        ExportRequest(run_dir, folder, step, None if dtype is None else dtype.value, license, overwrite, max_shard_size)
    )
    typer.echo(f"written: {done.folder} (step {done.step}; largest difference of logits {done.difference:.1e})")


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that megadape export made.")],
    run_dir: Annotated[Path, typer.Argument(help="Run folder to make.")],
    changed: Annotated[
        bool, typer.Option("--changed", help="Take weights that were changed since, say by fine-tuning.")
    ] = False,
) -> None:
    """Make a run of an exported folder, to evaluate, to sample from and to train further; nothing there is executed.

    Example: megadape import exported/demo runs/imported
    """
    from megadape.export.importing import ImportRequest, import_folder

    typer.echo(f"written: {import_folder(ImportRequest(folder, run_dir, changed))}")
