"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from megadape.checkpoint.files import flush
from megadape.errors import ExportError

ASIDE = ".replaced"


def check_target(folder: Path, *, overwrite: bool | None, keep: Path | None = None) -> None:
    """``ExportError`` unless the folder can be made.

    Args:
        folder: to be made.
        overwrite: whether it may replace one that holds something; None: it never may.
        keep: a folder that must survive.
    """
    if keep is not None and keep.resolve().is_relative_to(folder.resolve()):
        raise ExportError(f"{folder} is or holds {keep}, which would be replaced: choose another folder")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ExportError(f"{folder} is or holds the current folder, which cannot be replaced: choose another folder")
    try:
        there = folder.is_dir() and any(folder.iterdir())
        if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
            raise ExportError(f"{folder} is there and is no folder: choose another name")
    except OSError as error:
        raise ExportError(f"{folder} cannot be read: {error.strerror or error}") from error
    if there and not overwrite:
        remedy = "" if overwrite is None else ", or give --overwrite to replace all of it"
        raise ExportError(f"{folder} is not empty: choose another folder{remedy}")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into, which takes its name and place when the block ends without an error.

    What killed processes of this host left of earlier attempts is removed.

    Raises:
        ExportError: the disk refused.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - a symbolic link stays one
    stem = f".{folder.name}.partial-{socket.gethostname()}-"
    staging = folder.with_name(f"{stem}{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f"{escape(stem)}*"):
            only_copy = leftover.name.endswith(ASIDE) and not folder.exists()  # killed between two renames
            if not only_copy and not _alive(leftover.name.removeprefix(stem)):
                shutil.rmtree(leftover, ignore_errors=True)
        staging.mkdir()
        yield staging
        for path in (*sorted(staging.rglob("*")), staging):
            flush(path)
        _replace(staging, folder)
        flush(folder.parent)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, folder: Path) -> None:
    """Give the new folder its name; an old one is moved aside for that instant, and back if it fails."""
    aside = staging.with_name(f"{staging.name}{ASIDE}")
    old = folder.is_dir() and any(folder.iterdir())
    if old:
        folder.rename(aside)
    try:
        staging.rename(folder)  # an empty folder is replaced
    except OSError:
        if old:
            aside.rename(folder)
        raise
    if old:
        with suppress(OSError):
            aside.unlink() if aside.is_symlink() else shutil.rmtree(aside)


def _alive(name: str) -> bool:
    """Whether the process lives that a folder is named by."""
    pid = name.partition(".")[0]
    if not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's process
        return True
    return True
