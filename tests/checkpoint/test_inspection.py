"""What a person sees of a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from example_states import alone, own_state, save_steps, table_of

from megadape.checkpoint.inspection import COLUMNS, inspect_checkpoint, open_checkpoint, verify
from megadape.checkpoint.settings import CheckpointSettings
from megadape.checkpoint.writer import CheckpointWriter
from megadape.errors import CheckpointError

STATE = {
    "updates": 3,
    "progress": {"step": 3, "consumed_samples": 24},
    "layout": {"tp": 1, "pp": 1, "dp": 1},
    "architecture": {"model": {"num_layers": 4}},
    "versions": {"torch": "2.13.0"},
    "random": ["long"],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with steps 2 and 3."""
    save_steps(tmp_path / "checkpoints", (2,), None, {})
    writer = CheckpointWriter(tmp_path / "checkpoints", alone(), CheckpointSettings())
    writer.take_over()
    table = table_of(alone())
    assert writer.save(3, *own_state(table, 3), table, STATE)
    return tmp_path


def test_a_checkpoint_is_found_by_its_run_its_folder_or_itself(run: Path) -> None:
    paths = {open_checkpoint(path).path for path in (run, run / "checkpoints", run / "checkpoints" / "step-00000003")}
    assert paths == {run / "checkpoints" / "step-00000003"}
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*nowhere: name a run folder"):
        open_checkpoint(run / "nowhere")


def test_what_is_in_it(run: Path) -> None:
    inspection = inspect_checkpoint(run)
    facts = dict(inspection.facts)
    assert facts["step"] == "3"
    assert facts["parameters"] == "1,484 in 22 tensors"
    assert facts["moments"] == "exp_avg, exp_avg_sq"
    assert facts["layout"] == "tp 1, pp 1, dp 1"
    assert facts["architecture"] == "model: (num_layers 4)"
    assert facts["versions"] == "torch 2.13.0"
    assert facts["written_by"].startswith("name ")
    assert "random" not in facts
    rows = {row[0]: row for row in inspection.tensors}
    assert all(len(row) == len(COLUMNS) for row in inspection.tensors)
    assert rows["blocks.2.w1"] == ("blocks.2.w1", "6 x 8", "48", "F32", "1", "model-00000.safetensors")
    assert rows["blocks.0.scale"][1:5] == ("scalar", "1", "F32", "-")


def test_verification_quick_and_full(run: Path) -> None:
    file = run / "checkpoints" / "step-00000002" / "model-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert [verdict.problem for verdict in verify(run, full=False)] == [None, None]
    newest, older = verify(run, full=True)
    assert newest.problem is None
    assert str(newest).endswith("step-00000003: sound")
    assert "model-00000.safetensors is damaged" in str(older)
    (one,) = verify(older.path, full=True)
    assert one == older
    file.unlink()
    assert "is missing" in str(verify(run, full=False)[1])
    (older.path / "manifest.json").unlink()
    assert verify(older.path, full=False)[0].problem == "manifest.json is missing"
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        verify(run, full=True)


def test_block_ten_comes_after_block_nine() -> None:
    from megadape.checkpoint.inspection import _by_number

    names = ["blocks.10.a", "blocks.9.a", "embedding", "blocks.9.b"]
    assert sorted(names, key=_by_number) == ["blocks.9.a", "blocks.9.b", "blocks.10.a", "embedding"]
