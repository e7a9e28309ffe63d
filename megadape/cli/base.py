"""What all commands share: how mistakes end, and arguments that several of them take."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from megadape.errors import ConfigurationError, MegadapeError


class PlainErrors(TyperGroup):
    """A user's mistake, or what the machine refuses, is one sentence and exit code 2 (1 where another rank was lost),
    an interruption 130; anything else is a bug and shows its traceback."""

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
        except Exception as error:
            refusal = machine_refusal(error)
            if refusal is None:
                raise
            typer.echo(f"megadape: {refusal}", err=True)
            raise typer.Exit(2) from error


def machine_refusal(error: Exception) -> str | None:
    """What to say where a disk, a file system or memory is the reason; None for a bug, and for a closed pipe, which
    whoever reads no further means so."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        known = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}: mend that, and give the same command again"
        return f"{error.strerror}: mend that, and give the same command again" if known else None
    told = str(error).strip()
    # torch says it of a CPU and of a GPU in its own ways
    refused = isinstance(error, RuntimeError) and ("can't allocate memory" in told or "out of memory" in told)
    if isinstance(error, MemoryError) or refused:
        reason = told.splitlines()[0].rstrip(".") if told else "a piece of it was refused"
        return f"there is not enough memory ({reason}): make the model, its batches or its texts smaller"
    return None


def open_closed_streams() -> None:
    """Give a process that was started without one of its standard streams (``>&-``) an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def refuse_given(options: Mapping[str, object], reason: str) -> None:
    """``ConfigurationError`` for the first of these options that was given, which would have no effect."""
    for name, value in options.items():
        if value:
            raise ConfigurationError(f"{name} {reason}")


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
