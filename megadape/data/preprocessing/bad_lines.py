"""What happens to records that give no document."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from megadape.data.files import HashedFile, reporting
from megadape.data.preprocessing.settings import OnBadLine
from megadape.data.reading.ledger import BadRecord
from megadape.errors import DataError


class BadLines:
    """Stops, counts or keeps bad records.

    Args:
        policy: what to do.
        most: with more than this everything stops.
        skip_undecodable: files of plain text that are not UTF-8 are counted whatever the policy is.
        quarantine: file of the records that are kept.
        count: bad records so far, when the work goes on.
        kept: bytes of ``quarantine`` so far.
    """

    def __init__(
        self,
        policy: OnBadLine,
        most: int | None,
        skip_undecodable: bool,
        quarantine: Path,
        count: int = 0,
        kept: int = 0,
    ) -> None:
        self._policy, self._most, self._skip_undecodable = policy, most, skip_undecodable
        self._path = quarantine
        self._file: HashedFile | None = None
        self.count = count
        if policy == "quarantine":
            with reporting("write", quarantine):
                self._file = HashedFile(quarantine, keep=kept)

    @property
    def kept(self) -> int:
        """Bytes of the quarantine file."""
        return 0 if self._file is None else self._file.size

    @property
    def sha256(self) -> str:
        """Of those bytes."""
        return "" if self._file is None else self._file.hash.hexdigest()

    def add(self, record: BadRecord) -> None:
        """Treat a bad record; ``DataError`` when it is one too many."""
        expected = self._skip_undecodable and record.bad.text_file
        if self._policy == "error" and not expected:
            raise DataError(str(record))
        self.count += 1
        if self._file is not None:
            with reporting("write", self._path):
                self._file.write(describe(record))
        if self._most is not None and self.count > self._most:
            raise DataError(f"more than max_bad_lines ({self._most}) bad lines; the last is {record}")

    def flush(self) -> None:
        """Hand what is kept to the system."""
        if self._file is not None:
            with reporting("write", self._path):
                self._file.flush()

    def sync(self) -> None:
        """Wait until what is kept is on the disk."""
        if self._file is not None:
            with reporting("write", self._path):
                self._file.sync()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def describe(record: BadRecord) -> bytes:
    """A line of the quarantine file: where the record stood, why it is there, and its bytes.

    ``text`` holds the bytes when they are UTF-8, else ``base64``; ``size`` is the record's own, and ``truncated`` is
    set when only the first of its bytes are given.
    """
    bad = record.bad
    line = record.line - 1 if bad.rest else record.line
    entry: dict[str, object] = {"file": record.file, record.unit: line, "reason": bad.reason, "size": bad.size}
    if bad.rest:
        entry["rest_of_file"] = True
    if len(bad.raw) < bad.size:
        entry["truncated"] = True
    try:
        entry["text"] = bad.raw.decode()
    except UnicodeDecodeError:
        entry["base64"] = base64.b64encode(bad.raw).decode()
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
