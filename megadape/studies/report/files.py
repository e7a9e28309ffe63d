"""Which files a report consists of: what an earlier report left in the folder and this one has no more, goes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from megadape.evaluation.output import write_whole

LIST = "report-files.txt"
"""Beside the report: the name of each of its files, one a line, below the head."""

HEAD = "# Files of the megadape report in this folder; those that the next one does not write again are removed."


def keep_only(files: Iterable[Path], folder: Path) -> Path:
    """Remove what the list in the folder names and ``files`` does not hold; write the list anew, last of all.

    Nothing that no list names is touched: the folder may hold files of somebody else.

    Raises:
        EvaluationError: the list cannot be written.
    """
    path, names = folder / LIST, {file.name for file in files} | {LIST}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    earlier = lines[1:] if lines[:1] == [HEAD] else []
    for name in earlier:
        if name not in names and Path(name).name == name:  # nothing outside the folder, whatever the list says
            with suppress(OSError):  # gone already
                (folder / name).unlink()
    write_whole(path, "".join(f"{name}\n" for name in [HEAD, *sorted(names)]))
    return path
