"""What all commands share: how mistakes end, and arguments that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from megadape.errors import MegadapeError


class PlainErrors(TyperGroup):
    """A user's mistake is one sentence and exit code 2 (1 where another rank was lost), an interruption 130; anything
    else is a bug and shows its traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run a command."""
        try:
            return super().invoke(ctx)
        except MegadapeError as error:
            typer.echo(f"megadape: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interruption:
            typer.echo("interrupted: what was complete is kept; give the same command again to go on", err=True)
            raise typer.Exit(130) from interruption


class DefaultsToRun(TyperGroup):
    """A group whose first word may be left out when it is ``run``: ``evaluate RUN`` is ``evaluate run RUN``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the word in where it was left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


Files = Annotated[list[Path], typer.Argument(help="Settings files; later ones are laid over earlier ones.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key, over the files; repeatable.")
]
RunDir = Annotated[Path, typer.Argument(help="Run folder, as made by megadape train.")]
