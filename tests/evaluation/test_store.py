"""What is kept of an evaluation: whole lines, found by what they are about."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.errors import EvaluationError
from megadape.evaluation.store import Measured, Store

PIECES = {f"{number:064x}": Measured((number / 7, float("inf"), 1e-300), 0.1 * number) for number in range(4)}


def fill(folder: Path) -> Path:
    store = Store(folder)
    for digest, measured in PIECES.items():
        store.append(digest, measured)
    (path,) = folder.glob("pieces-*.jsonl")
    return path


@given(st.integers(0, 2000), st.binary(max_size=20))
def test_of_a_file_that_was_cut_anywhere_whole_lines_are_read(kept: int, garbage: bytes) -> None:
    with TemporaryDirectory() as name:
        path = fill(Path(name))
        content = path.read_bytes()[:kept]
        whole = content.count(b"\n")
        # what a power cut leaves at the end is not what was written
        path.write_bytes(content + garbage.replace(b"\n", b"") if kept < 2000 else content)
        assert Store(Path(name)).read() == dict(list(PIECES.items())[:whole])


def test_every_process_writes_a_file_of_its_own_and_reads_all(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    assert one.read() == {}
    one.append("a", Measured((1.0,), 0.5))
    two.append("b", Measured((), 0.25))
    assert one.read() == two.read() == {"a": Measured((1.0,), 0.5), "b": Measured((), 0.25)}
    assert len(list(tmp_path.iterdir())) == 2


def test_results_of_another_plan_are_not_taken(tmp_path: Path) -> None:
    store, plan = Store(tmp_path), "0" * 64
    assert store.read_results(plan) is None
    store.write_results(plan, {"step": 3})
    assert Store(tmp_path).read_results(plan) == {"plan": plan, "step": 3}
    assert store.read_results("0" * 63 + "1") is None  # their files have the same name
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert store.read_results(plan) is None


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        Store(tmp_path / "file" / "store").append("a", Measured((1.0,), 0.5))
