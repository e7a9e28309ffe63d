"""``megadape config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import Files, Overrides

app = typer.Typer(no_args_is_help=True, help="Look at settings before running them.")


@app.command("show")
def config_show(files: Files, overrides: Overrides = None) -> None:
    """Print the resolved settings with the origin of each value.

    Example: megadape config show configs/models/125M.yaml configs/positions/dape_kerple.yaml --set run_dir=runs/a
    """
    from megadape.config import load_with_origins, show

    typer.echo(show(load_with_origins(files, overrides or [])))


@app.command("validate")
def config_validate(files: Files, overrides: Overrides = None) -> None:
    """Say whether the settings are right, or list all mistakes.

    Example: megadape config validate configs/models/125M.yaml --set run_dir=runs/a --set data.prefix=data/arxiv
    """
    from megadape.config import load

    load(files, overrides or [])
    typer.echo("the settings are valid")


@app.command("diff")
def config_diff(
    first: Annotated[Path, typer.Argument(help="Settings file, or a run folder.")],
    second: Annotated[Path, typer.Argument(help="Settings file, or a run folder.")],
    overrides: Overrides = None,
) -> None:
    """List the settings in which two files or runs differ.

    Example: megadape config diff runs/a runs/b
    """
    from megadape.config import diff, load, render_diff

    one, other = (
        load([path / "settings.yaml" if path.is_dir() else path], overrides or []) for path in (first, second)
    )
    typer.echo(render_diff(diff(one, other), str(first), str(second)))


@app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the settings, for editors.

    Example: megadape config schema > megadape.schema.json
    """
    import json

    from megadape.config import schema

    typer.echo(json.dumps(schema(), indent=2))
