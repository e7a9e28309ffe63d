"""Files of finished work put one behind another, no byte of them unseen."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megadape.data.files import HashedFile, reporting
from megadape.errors import DataError

_CHUNK = 1 << 22


class DamagedWorkError(DataError):
    """What an earlier run left is not what it wrote."""


def append_file(source: Path, target: HashedFile, size: int, sha256: str) -> None:
    """Append a file to another; ``DamagedWorkError`` when it has not the size and digest that it should have.

    Both digests, the file's own and that of all that is written, are computed side by side.
    """
    digest, left = hashlib.sha256(), size
    with reporting("read", source), source.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as thread:
        while chunk := file.read(_CHUNK):
            hashed = thread.submit(digest.update, chunk)
            target.write(chunk)
            hashed.result()
            left -= len(chunk)
    if left or digest.hexdigest() != sha256:
        raise DamagedWorkError(f"{source} is not what was written there: make its part again, with --no-resume")
