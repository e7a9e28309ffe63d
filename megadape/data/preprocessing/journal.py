"""What is done, written down while the work goes on.

``journal.jsonl`` has one line, a mark, for each time that everything so far was flushed to the disk. A mark says which
shard and block comes next, how long every file was then, and which sources were finished since the mark before. A line
that a kill or a power cut has torn does not count. ``plan.json`` says what the work is (see ``identity``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import ValidationError

from megadape.data.files import flush_folder, reporting, write_whole
from megadape.data.preprocessing.pair import PairMark
from megadape.data.reading.ledger import Source
from megadape.settings import Settings


class KeyMark(PairMark):
    """How far the dataset of one key is."""

    text_bytes: int = 0
    empty: int = 0


class Mark(Settings):
    """How far everything is."""

    shard: int = 0
    """Which comes next, or is begun."""
    blocks: int = 0
    """How many blocks of it are done."""
    read_bytes: int = 0
    keys: tuple[KeyMark, ...] = ()
    quarantine_bytes: int = 0
    quarantine_sha256: str = ""
    """Of a part that is complete."""
    bad: int = 0
    passed_over: int = 0
    undecodable: tuple[str, ...] = ()
    """Since the mark before."""
    finished: tuple[Source, ...] = ()
    """Since the mark before."""
    source: int = 0
    """Which is being read."""
    account: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Of that source: lines, documents, passed over, bad."""
    complete: bool = False
    """Whether all files are as they will be."""


NAME = "journal.jsonl"


class Journal:
    """The marks of a run.

    Args:
        folder: where the journal is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / NAME
        self.plan_path = folder / "plan.json"

    def read(self) -> Mark | None:
        """The last mark, with the finished and the undecodable sources of all; None when there is none."""
        marks = []
        whole = 0
        with reporting("read", self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
        for line in content.splitlines(keepends=True):
            try:
                mark = Mark.model_validate_json(line)
            except ValidationError:
                break
            if not line.endswith(b"\n"):
                break
            marks.append(mark)
            whole += len(line)
        self._cut(whole, len(content))
        if not marks:
            return None
        finished = tuple(source for mark in marks for source in mark.finished)
        undecodable = tuple(name for mark in marks for name in mark.undecodable)
        return marks[-1].model_copy(update={"finished": finished, "undecodable": undecodable})

    def append(self, mark: Mark) -> None:
        """Write a mark down, to the disk."""
        with reporting("write", self.path), self.path.open("ab") as file:
            file.write(mark.model_dump_json(exclude_defaults=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def begin(self, identity: dict[str, object]) -> None:
        """Write down what the work is, before any of it."""
        for path, content in ((self.path, b""), (self.plan_path, _encode(identity))):
            with reporting("write", path), path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        with reporting("flush the folder", self._folder):
            flush_folder(self._folder)

    def restate(self, identity: dict[str, object]) -> None:
        """Write down what the work is from here on, where that is free to change."""
        write_whole(self.plan_path, _encode(identity))

    def identity(self) -> dict[str, object] | None:
        """What the work is; None when that is not known."""
        try:
            known = json.loads(self.plan_path.read_bytes())
        except (OSError, ValueError):
            return None
        return known if isinstance(known, dict) else None

    def _cut(self, whole: int, size: int) -> None:
        if whole < size:
            with reporting("write", self.path):
                os.truncate(self.path, whole)


def _encode(identity: dict[str, object]) -> bytes:
    return json.dumps(identity, indent=1).encode()
