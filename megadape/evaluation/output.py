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

    A symbolic link stays one. What is there and is no regular file, such as /dev/stdout, is written to as it stands.

    Raises:
        EvaluationError: the disk refused; an older file of that name is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        final = path.resolve()
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_beside(final)
        try:
            partial.write_bytes(data)
            partial.replace(final)
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
