"""Files of evaluations: whole or not at all."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from megadape.errors import EvaluationError
from megadape.evaluation.output import write_whole


def test_what_a_killed_process_left_is_swept_by_the_next_that_writes_the_file(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".table.csv.tmp-{socket.gethostname()}-{dead.pid}-ab"
    other = tmp_path / f".other.csv.tmp-{socket.gethostname()}-{dead.pid}-ab"
    for file in (left, other):
        file.write_text("half")
    write_whole(tmp_path / "table.csv", "a,b\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([other.name, "table.csv"])
    assert (tmp_path / "table.csv").read_text() == "a,b\n"


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(EvaluationError, match="folder cannot be written: Is a directory"):
        write_whole(tmp_path / "folder", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
    (tmp_path / "file").write_text("kept")
    with pytest.raises(EvaluationError, match="file/below cannot be written: "):
        write_whole(tmp_path / "file" / "below", "text")
    assert (tmp_path / "file").read_text() == "kept"
