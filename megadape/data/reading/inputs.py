"""Which files a corpus has, in which order, and whether they are still what they were."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Self

from megadape.data.files import PathLike, reporting
from megadape.data.reading.streams import COMPRESSIONS
from megadape.errors import DataError


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it was when the reading was planned."""

    path: Path
    size: int
    modified: int
    """Nanoseconds since 1970."""

    @classmethod
    def at(cls, path: Path) -> Self:
        """The file as it is now."""
        with reporting("read", path):
            status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    def require_unchanged(self) -> None:
        """``DataError`` when the file is another than when the reading was planned."""
        if StoredFile.at(self.path) != self:
            raise DataError(f"{self.path} has changed while it was read: preprocess again when nothing writes it")


def find_files(
    inputs: Sequence[PathLike], endings: Sequence[str], exclude: Sequence[PathLike] = ()
) -> tuple[Path, ...]:
    """The files that the inputs name, each once.

    Inputs keep their order. A folder stands for all files below it whose name ends in one of the suffixes, a glob for
    all paths that match it; both in the order of their paths as text. Hidden files and folders (a leading dot) and
    ``exclude`` are passed over. A file that is named itself must have one of the endings; ``DataError`` for it and for
    an input that gives no file.
    """
    suffixes = tuple(ending + compression for ending in endings for compression in COMPRESSIONS)
    unwanted = {Path(path).resolve() for path in exclude}
    found: dict[Path, Path] = {}
    for given in inputs:
        paths = [path for path in _expand(given, suffixes) if path.resolve() not in unwanted]
        if not paths:
            raise DataError(f"{given} gives no file to read: {_wanted(suffixes)}")
        for path in paths:
            found.setdefault(path.resolve(), path)
    return tuple(found.values())


def _expand(given: PathLike, suffixes: tuple[str, ...]) -> list[Path]:
    if not str(given):
        raise DataError("an input is empty: give files, folders or globs; . is the current folder")
    path = Path(given)
    if path.is_dir():
        return _below(path, suffixes)
    if path.is_file():
        return [_require_suffix(path, suffixes)]
    if path.exists():
        raise DataError(f"{path} is neither a file nor a folder: give files, folders or globs")
    if not has_magic(str(given)):
        raise DataError(f"there is no {given}: give files, folders or globs that exist")
    matches = [Path(match) for match in sorted(glob(str(given), recursive=True))]  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matches:
        raise DataError(f"no file matches {given}")
    folders = [file for match in matches if match.is_dir() for file in _below(match, suffixes)]
    files = [_require_suffix(match, suffixes) for match in matches if match.is_file()]
    return sorted({*files, *folders}, key=str)


def _below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below a folder with one of the suffixes, by path; links to folders are not followed."""
    found = []
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = [name for name in names if not name.startswith(".") and name.lower().endswith(suffixes)]
        found += [path for name in wanted if (path := Path(where, name)).is_file()]
    return sorted(found, key=str)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list the folder {error.filename}: {error.strerror}") from error


def _require_suffix(path: Path, suffixes: tuple[str, ...]) -> Path:
    if not path.name.lower().endswith(suffixes):
        raise DataError(f"{path} has no known format: {_wanted(suffixes)}")
    return path


def _wanted(suffixes: tuple[str, ...]) -> str:
    return f"files must end in one of {', '.join(suffixes)}; further endings of plain text are named in text_suffixes"
