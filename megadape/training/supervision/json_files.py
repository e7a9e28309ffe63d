"""Small JSON files that others read while a run goes on: whole or not there, never half."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megadape.data.files import flush_folder


def replace_json(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Put a JSON object in a file's place at once; its folder is made.

    Args:
        path: the file.
        content: the object.
        durable: flush to the disk, so that it survives a power cut.

    Raises:
        OSError: the file system refused; what stood there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the name holds the process: an older incarnation of the run may still be writing on another host
    partial = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        flush_folder(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object of a file; None where there is none, or nothing that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
