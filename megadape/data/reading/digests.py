"""SHA-256 of the inputs, beside the work.

Whoever reads a file whole knows its digest. A plain file that several processes read in ranges is read once more, in a
thread, no further than the ranges are dealt, so that it is still in the system's cache.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from megadape.data.files import reporting
from megadape.data.reading.inputs import StoredFile
from megadape.data.reading.streams import Digest, HashedInput

_CHUNK = 1 << 20


class SourceDigests:
    """Digests of the files of a corpus, by the number of the file; a context manager.

    Args:
        stop: of files with this number and higher ones no digest is wanted; None when those of all are.
    """

    def __init__(self, stop: int | None = None) -> None:
        self._stop = stop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digests")
        self._known: dict[int, Digest] = {}
        self._pending: dict[int, Future[Digest | None]] = {}
        self._reading: tuple[int, HashedInput] | None = None

    def put(self, source: int, digest: Digest) -> None:
        """The digest of a file that was read whole."""
        self._known[source] = digest

    def read_to(self, source: int, file: StoredFile, stop: int) -> None:
        """Go on to a position in a file; its digest is known once that is its end."""
        if self._stop is not None and source >= self._stop:
            return
        self._pending[source] = self._thread.submit(self._read, source, file, stop)

    def take(self, source: int) -> Digest:
        """The digest of a file that was read to its end, waiting for it; it is forgotten then."""
        pending = self._pending.pop(source, None)
        digest = pending.result() if pending is not None else self._known.pop(source, None)
        assert digest is not None, f"source {source} is not read to its end"
        return digest

    def _read(self, source: int, file: StoredFile, stop: int) -> Digest | None:
        with reporting("read", file.path):
            if self._reading is None or self._reading[0] != source:
                self._close()
                self._reading = source, HashedInput(file.path.open("rb", buffering=0))
            raw = self._reading[1]
            while raw.count < stop and raw.read(min(_CHUNK, stop - raw.count)):
                pass
        if stop < file.size:
            return None
        digest = raw.finish()
        self._close()
        file.require_unchanged()
        return digest

    def _close(self) -> None:
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._close()
