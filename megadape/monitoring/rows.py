"""Rows of metrics.jsonl as somebody else writes them: the newest of a long file, or those that came since."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megadape.training.metrics import parse_row

TAIL_BYTES = 1 << 16
"""About a hundred rows."""

Row = Mapping[str, Any]


def read_tail(path: Path) -> list[dict[str, Any]]:
    """The newest rows, whatever the file's length; a line that is being written, and what is no row, are left out.

    Raises:
        OSError: it cannot be read; not where there is none.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return _rows(lines[1:] if start else lines)


class Follower:
    """Reads what came since it last read; a file in the old one's place, as a resumed run makes it, is read anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        self._read = 0
        self.rows: dict[int, dict[str, Any]] = {}
        """Step -> row, all that stand there."""

    def update(self) -> list[dict[str, Any]]:
        """The rows that are new.

        Raises:
            OSError: it cannot be read; not where there is none.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino
                if identity != self._file or status.st_size < self._read:
                    self._file, self._read = identity, 0
                    known, self.rows = self.rows, {}
                else:
                    known = {}
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + len(newline)
        rows = _rows(whole.split(b"\n")) if newline else []
        self.rows |= {row["step"]: row for row in rows}
        return [row for row in rows if known.get(row["step"]) != row]


def number(row: Row | None, key: str) -> float | None:
    """A finite number of a row; None where there is none, or something else stands there."""
    value = None if row is None else row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def newest(rows: list[dict[str, Any]], key: str) -> float | None:
    """The last number of that name."""
    return next((value for row in reversed(rows) if (value := number(row, key)) is not None), None)


def _rows(lines: list[bytes]) -> list[dict[str, Any]]:
    return [row for row in map(parse_row, lines) if row is not None]
