"""Files that appear whole or not at all.

Everything that this room writes is first written under a temporary name in its own folder, flushed to the disk, and
renamed when it is complete. A temporary name says which process of which host made it, so that what a killed process
left is swept by the next one that writes the same file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from megadape.errors import DataError

PathLike = str | os.PathLike[str]


@contextmanager
def reporting(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a ``DataError`` that names the path and the reason."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot {action} {path}: {error.strerror or error}") from error


def with_ending(prefix: PathLike, ending: str) -> Path:
    """``PREFIX`` + ending; unlike ``Path.with_suffix`` it keeps dots in the prefix."""
    path = Path(prefix)
    if path.name in ("", ".."):
        raise DataError(f"{str(prefix)!r} names no dataset: give a path whose last part is a name, such as data/corpus")
    return path.with_name(path.name + ending)


def flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HashedFile:
    """A file being written, with its size and SHA-256 so far.

    Args:
        path: of the file.
        keep: bytes of an earlier beginning that are kept; what stands behind them is cut off.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        self._file: BinaryIO = path.open("r+b" if keep else "wb", buffering=1 << 20)
        self.hash = hashlib.sha256()
        self.size = 0
        while self.size < keep and (chunk := self._file.read(min(1 << 20, keep - self.size))):
            self.hash.update(chunk)
            self.size += len(chunk)
        self._file.truncate(self.size)
        self._file.seek(self.size)

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._file.closed

    def write(self, data: bytes | npt.NDArray[np.generic]) -> None:
        """Append bytes, or the bytes of an array."""
        view = memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).view(np.uint8).data
        self._file.write(view)
        self.hash.update(view)
        self.size += len(view)

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def sync(self) -> None:
        """Flush everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what cannot be written is lost."""
        with suppress(OSError):  # after a failed write the buffer is still full, and closing tries to flush it again
            self._file.close()


class StagedFiles:
    """Files written under temporary names and renamed together, in the order in which they were added.

    ``commit`` first removes what stood under the final names, last file first: a reader never meets an old file beside
    a new one.
    """

    def __init__(self) -> None:
        self._temporary: dict[Path, Path] = {}

    def add(self, final: Path) -> Path:
        """The temporary name to write the file under; its folder is made, leftovers of dead processes are removed."""
        with reporting("create the folder", final.parent):
            final.parent.mkdir(parents=True, exist_ok=True)
        self._temporary[final] = temporary_beside(final)
        return self._temporary[final]

    def write(self, final: Path, content: bytes) -> None:
        """Stage a small file with its whole content."""
        temporary = self.add(final)
        with reporting("write", final), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def commit(self) -> None:
        """Give every file its final name."""
        for final in reversed(self._temporary):
            with reporting("replace", final):
                final.unlink(missing_ok=True)
        for final, temporary in self._temporary.items():
            with reporting("write", final):
                temporary.replace(final)
        for folder in {final.parent for final in self._temporary}:
            with reporting("flush the folder", folder):
                flush_folder(folder)
        self._temporary.clear()

    def discard(self) -> None:
        """Remove what was staged and not committed."""
        for temporary in self._temporary.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._temporary.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    with StagedFiles() as staged:
        staged.write(path, content)
        staged.commit()


def temporary_beside(final: Path) -> Path:
    """A name to write a file under until it is whole; what processes of this host that are gone left is removed."""
    stem = f".{final.name}.tmp-{socket.gethostname()}-"
    for leftover in final.parent.glob(f"{escape(stem)}*"):
        pid = leftover.name.removeprefix(stem).split("-")[0]
        if pid.isdecimal() and not _alive(int(pid)):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
    return final.with_name(f"{stem}{os.getpid()}-{secrets.token_hex(4)}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's process
        return True
    return True
