"""Files of a corpus as streams of bytes: found, opened, decompressed, counted and hashed."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from megadape.data.files import PathLike
from megadape.errors import DataError
from megadape.settings import Settings

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

_CHUNK = 1 << 17
_LARGEST_ZSTD_WINDOW = 1 << 31


class Source(Settings):
    """One file of a corpus, as it was read."""

    path: str
    size: int
    """Bytes of the file as it is stored."""
    sha256: str


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


class HashedInput(io.RawIOBase):
    """A file that counts and hashes its bytes as they are read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.hash = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As in ``io.RawIOBase``."""
        count = self._file.readinto(buffer) or 0
        self.hash.update(buffer[:count])
        self.count += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _ZstdInput(io.RawIOBase):
    """Frames of zstd one after another as one stream; ``EOFError`` when the last one is cut."""

    def __init__(self, compressed: BinaryIO) -> None:
        from zstandard import ZstdDecompressor

        self._compressed = compressed
        self._frames = ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
        self._frame: ZstdDecompressionObj | None = None
        self._left = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if not self._fill():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _fill(self) -> bool:
        """Decompress the next chunk; False at the end of the file."""
        chunk = self._left or self._compressed.read(_CHUNK)
        self._left = b""
        if not chunk:
            if self._frame is not None:
                raise EOFError("compressed file ended before the end of a frame was reached")
            return False
        if self._frame is None:
            self._frame = self._frames.decompressobj()
        self._ready = memoryview(self._frame.decompress(chunk))
        if self._frame.eof:
            self._left, self._frame = self._frame.unused_data, None
        return True


def _open_plain(raw: BinaryIO) -> BinaryIO:
    return raw


def _open_gzip(raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw))


def _open_zstd(raw: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_ZstdInput(raw), _CHUNK)


COMPRESSIONS: dict[str, Callable[[BinaryIO], BinaryIO]] = {"": _open_plain, ".gz": _open_gzip, ".zst": _open_zstd}
"""Ending of a name -> how its bytes are decompressed."""


def compression_of(path: Path) -> str:
    """The ending that names a file's compression; empty for none."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, HashedInput]]:
    """The decompressed bytes of a file, and the file itself; ``DataError`` when it cannot be opened."""
    try:
        raw = HashedInput(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    with raw:
        yield COMPRESSIONS[compression_of(path)](io.BufferedReader(raw, _CHUNK)), raw


def decompression_errors() -> tuple[type[Exception], ...]:
    """What a stream raises when its file is cut, damaged or cannot be read."""
    from zstandard import ZstdError

    return (EOFError, OSError, zlib.error, ZstdError)
