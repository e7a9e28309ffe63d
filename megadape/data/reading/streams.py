"""Stored files as streams of bytes: counted, hashed, decompressed.

Frames of zstd and members of gzip follow one another as one stream. A compressed file that is cut or damaged gives all
that comes before the damage and then ends, and its stream says what is wrong. However well a file is packed, no more
than some tens of megabytes of it are unpacked at once.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from megadape.data.files import reporting

BOM = b"\xef\xbb\xbf"

_BUFFER = 1 << 17
_LARGEST_ZSTD_WINDOW = 1 << 31


class Digest(NamedTuple):
    """What a file was when it was read."""

    size: int
    """Bytes as they are stored."""
    sha256: str


class HashedInput(io.RawIOBase):
    """A stream that counts and hashes its bytes as they are read."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As in ``io.RawIOBase``."""
        count = self._file.readinto(buffer) or 0
        self._hash.update(buffer[:count])
        self.count += count
        return count

    def finish(self) -> Digest:
        """Read what is left and say what it all was."""
        while self.read(_BUFFER):
            pass
        return Digest(self.count, self._hash.hexdigest())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _Decompressor(Protocol):
    """One frame or member."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Codec(NamedTuple):
    """How a compression is undone."""

    chunk: int
    """Compressed bytes unpacked at once: zstd makes up to 2^15 bytes of one, gzip 2^10."""
    begin: Callable[[], _Decompressor]
    errors: tuple[type[Exception], ...]
    padding: bytes = b""
    """What may stand behind a member and means nothing."""


class _Unpacked(io.RawIOBase):
    """Frames one after another as one stream that ends before the first damage."""

    def __init__(self, packed: BinaryIO, codec: _Codec) -> None:
        self._packed = packed
        self._codec = codec
        self._frame: _Decompressor | None = None
        self._left = b""
        self._ready = memoryview(b"")
        self.damage: str | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if self.damage is not None or not self._fill():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _fill(self) -> bool:
        """Unpack the next chunk; False at the end of the file."""
        chunk = self._left or self._packed.read(self._codec.chunk)
        self._left = b""
        if self._frame is None and self._codec.padding:
            chunk = chunk.lstrip(self._codec.padding) if chunk else chunk
            if not chunk:
                return self._packed_has_more()
        if not chunk:
            if self._frame is not None:
                self.damage = "it ends in the middle of compressed data"
            return False
        try:
            self._frame = self._frame or self._codec.begin()
            self._ready = memoryview(self._frame.decompress(chunk))
        except self._codec.errors as error:
            self.damage = str(error)
            return False
        if self._frame.eof:
            self._left, self._frame = self._frame.unused_data, None
        return True

    def _packed_has_more(self) -> bool:
        self._left = self._packed.read(self._codec.chunk)
        return bool(self._left)


def _gzip() -> _Codec:
    return _Codec(1 << 14, lambda: zlib.decompressobj(wbits=31), (zlib.error,), b"\0")


def _zstd() -> _Codec:
    from zstandard import ZstdDecompressor, ZstdError

    frames = ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
    return _Codec(1 << 11, lambda: cast(_Decompressor, frames.decompressobj()), (ZstdError,))


COMPRESSIONS: dict[str, Callable[[], _Codec] | None] = {"": None, ".gz": _gzip, ".zst": _zstd}
"""Ending of a name -> how its bytes are decompressed."""


def compression_of(path: Path) -> str:
    """The ending that names a file's compression; empty for none."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""


class FileStream:
    """The bytes of a file, unpacked, without a byte-order mark.

    Attributes:
        content: stream of what the file holds.
        raw: the file itself, which knows how much of it is read.
    """

    def __init__(self, raw: HashedInput, compression: str) -> None:
        self.raw = raw
        codec = COMPRESSIONS[compression]
        packed = io.BufferedReader(raw, _BUFFER)
        self._unpacked = _Unpacked(cast(BinaryIO, packed), codec()) if codec is not None else None
        stream: io.BufferedReader[Any] = (
            packed if self._unpacked is None else io.BufferedReader(self._unpacked, _BUFFER)
        )
        skip_bom(stream)
        self.content: BinaryIO = cast(BinaryIO, stream)

    @property
    def damage(self) -> str | None:
        """What is wrong with the file, as far as it is read; None when nothing is."""
        return None if self._unpacked is None else self._unpacked.damage


def skip_bom(stream: io.BufferedReader[Any]) -> int:
    """Pass over a byte-order mark with which a stream begins; how many bytes it has."""
    if stream.peek(len(BOM))[: len(BOM)] != BOM:
        return 0
    return len(stream.read(len(BOM)))


@contextmanager
def opened(path: Path) -> Iterator[FileStream]:
    """A file as a stream; ``DataError`` when it cannot be opened or read."""
    with reporting("read", path), HashedInput(path.open("rb", buffering=0)) as raw:
        yield FileStream(raw, compression_of(path))
