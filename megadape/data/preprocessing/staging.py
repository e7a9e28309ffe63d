"""Where a dataset grows: a hidden folder beside its prefix, which one process at a time may use.

``.NAME.partial`` (another folder for a part of the work) holds the files of ``NAME`` under their final names. When they
are complete they are moved out one by one, an index never before its data; moving goes on after a kill where it
stopped. A lock on a file in the folder tells the living from the dead: the system drops it with the process that holds
it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Self

from megadape.data.files import flush_folder, reporting
from megadape.errors import DataError
from megadape.faults import reach

_LOCK = "lock"
_ATTEMPTS = 100


class InUseError(DataError):
    """Another process is at work there."""


class Staging:
    """The folder of one dataset that is being made; a context manager that holds its lock.

    Args:
        prefix: of the dataset.
        folder: where it grows, when that is not beside the prefix.
        name: what messages call it, when that is not the prefix.
    """

    def __init__(self, prefix: Path, folder: Path | None = None, name: str | None = None) -> None:
        self.prefix = prefix
        self.folder = prefix.with_name(f".{prefix.name}.partial") if folder is None else folder
        self._name = name or str(prefix)
        self._lock: FileIO | None = None

    def __enter__(self) -> Self:
        for _ in range(_ATTEMPTS):
            with reporting("write", self.folder):
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    lock = FileIO(self.folder / _LOCK, "a+")
                except FileNotFoundError:  # a run that ends has just removed the folder
                    continue
            if self._hold(lock):
                self._lock = lock
                return self
        raise DataError(f"cannot lock {self.folder}: other runs make and remove it all the time")

    def __exit__(self, *_: object) -> None:
        """Let go of the folder; one that holds nothing is removed."""
        assert self._lock is not None
        if not self.files():
            with suppress(OSError):
                (self.folder / _LOCK).unlink()
                self.folder.rmdir()
        self._lock.close()
        self._lock = None

    def close(self) -> None:
        """In a fork: hold on to the lock no more."""
        if self._lock is not None:
            self._lock.close()

    def files(self) -> list[Path]:
        """What is in the folder."""
        with reporting("read", self.folder):
            return sorted(path for path in self.folder.iterdir() if path.name != _LOCK)

    def discard(self, first: str = "") -> None:
        """Remove everything in the folder, the file named ``first`` before all others."""
        for path in sorted(self.files(), key=lambda path: path.name != first):
            with reporting("remove", path):
                path.unlink()

    def path(self, final: Path) -> Path:
        """Where a file grows that will be called ``final``."""
        return self.folder / final.name

    def write(self, final: Path, content: bytes) -> None:
        """Write a small file with its whole content."""
        with reporting("write", self.path(final)), self.path(final).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def publish(self, finals: Sequence[Path]) -> None:
        """Move complete files to their final names, in this order; what stood there goes first, in the reverse one.

        Files that were moved before a kill are left as they are.
        """
        waiting = [final for final in finals if self.path(final).exists()]
        with reporting("flush the folder", self.folder):
            flush_folder(self.folder)
        for final in reversed(waiting):
            with reporting("replace", final):
                final.unlink(missing_ok=True)
        for final in waiting:
            with reporting("write", final):
                self.path(final).replace(final)
            reach("preprocess.between_renames")
        with reporting("flush the folder", self.prefix.parent):
            flush_folder(self.prefix.parent)

    def _hold(self, lock: FileIO) -> bool:
        """Take the lock; False when the folder is no more the one in which it was opened."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner(lock)
            lock.close()
            raise InUseError(
                f"{self._name} is being written by {owner}: wait for it, or choose another output prefix"
            ) from error
        try:
            same = os.path.samestat(os.fstat(lock.fileno()), (self.folder / _LOCK).stat())
        except FileNotFoundError:
            same = False
        if not same:
            lock.close()
            return False
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        return True


def _owner(lock: FileIO) -> str:
    try:
        lock.seek(0)
        owner = json.loads(lock.read())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
