"""Files that a reader finds either whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from megadape.data.files import temporary_beside
from megadape.errors import EvaluationError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name beside it, then rename; folders are made. Text is UTF-8.

    Raises:
        EvaluationError: the disk refused; an older file of that name is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_beside(path)
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            partial.replace(path)
        finally:
            with suppress(OSError):  # renamed, or never made
                partial.unlink()
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error.strerror or error}") from error


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file with a header line; numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_whole(path, text.getvalue())
