"""Whether a run can write its folder: tried, since rights and mounts do not tell a superuser."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from megadape.doctor.base import Finding, Subject, bad, fine, warn
from megadape.doctor.limits import existing

APPENDED = "metrics.jsonl"
REPLACED = ("checkpoints", "heartbeats", "evaluation")
"""What a run goes on writing in a folder that it has already."""


def look_at_run_folder(subject: Subject) -> Iterator[Finding]:
    """Write a file there, flush, rename and remove it; a folder that is not there is made, and removed again."""
    target = subject.run_dir.absolute()
    judge = bad if subject.named else warn
    made: list[Path] = []
    try:
        _make(target, made)
        for folder in (target, *(target / name for name in REPLACED if (target / name).is_dir())):
            _write(folder)
        if (target / APPENDED).exists():
            os.close(os.open(target / APPENDED, os.O_WRONLY | os.O_APPEND))
    except OSError as error:
        where = Path(error.filename or target)
        seen = f"{target} cannot be written: {error.strerror or error}"
        yield judge("run folder", seen + (f" ({where})" if where != target else ""), _remedy(error, where))
        return
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
    yield fine("run folder", f"{target} {'can be made and written' if made else 'is written'}")


def _make(target: Path, made: list[Path]) -> None:
    """Make the folder and those above it, and say which."""
    for folder in reversed((target, *target.parents)):
        if not folder.is_dir():
            folder.mkdir()
            made.append(folder)


def _write(folder: Path) -> None:
    """What a checkpoint does there, in small."""
    first, second = (folder / f".doctor-{os.getpid()}-{name}" for name in ("partial", "whole"))
    try:
        with first.open("xb") as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
        first.rename(second)
    except OSError as error:
        error.filename = str(folder)
        raise
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _read_only(path: Path) -> str:
    mount = next(folder for folder in (path, *path.parents) if os.path.ismount(folder))
    return f"its file system is mounted read-only: mount -o remount,rw {shlex.quote(str(mount))}"


def _denied(path: Path) -> str:
    quoted = shlex.quote(str(path))
    return f"chmod u+rwx {quoted}, or have its owner ({_owner(path)}) give it to you: chown -R $USER {quoted}"


REMEDIES: dict[int, Callable[[Path], str]] = {
    errno.EROFS: _read_only,
    errno.EACCES: _denied,
    errno.EPERM: lambda path: f"chattr -i -a {shlex.quote(str(path))}, or chown -R $USER {shlex.quote(str(path))}",
    errno.ENOSPC: lambda path: f"the disk is full: free some (df -h {shlex.quote(str(path))})",
    errno.EDQUOT: lambda path: "your quota is used up: delete files, or ask for more (quota -s)",
    errno.ENOTDIR: lambda path: f"a part of the path is a file: ls -ld {shlex.quote(str(path))}",
    errno.EEXIST: lambda path: f"a file has that name: ls -ld {shlex.quote(str(path))}",
    errno.ESTALE: lambda path: "the network file system has gone: mount it again",
}
"""What the system says -> what to do at the path."""


def _remedy(error: OSError, where: Path) -> str:
    there = where if where.exists() else existing(where)
    known = REMEDIES.get(error.errno or 0)
    other = "choose another folder (--set run_dir=...)"
    return f"{known(there)}; or {other}" if known else other


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return f"user {path.stat().st_uid}"
