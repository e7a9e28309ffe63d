"""Checkpoints are complete or not there."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from megadape.checkpoint import CheckpointStore
from megadape.errors import CheckpointError

TENSORS = {
    "model": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1)},
    "optimizer": {"exp_avg/a": torch.zeros(2, 3)},
}


def save(store: CheckpointStore, step: int) -> Path:
    return store.save(step, TENSORS, {"step": step})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.newest() is None
    save(store, 3)
    newest = store.newest()
    assert newest is not None
    assert newest.step == 3
    assert newest.state() == {"step": 3}
    assert torch.equal(newest.tensors("model")["a"], TENSORS["model"]["a"])
    assert newest.tensors("optimizer").keys() == {"exp_avg/a"}


def test_views_and_shared_memory_are_saved_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    store = CheckpointStore(tmp_path)
    store.save(1, {"model": {"whole": base, "turned": base.t()}}, {})
    newest = store.newest()
    assert newest is not None
    loaded = newest.tensors("model")
    assert torch.equal(loaded["turned"], base.t())
    assert torch.equal(loaded["whole"], base)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 10):
        save(store, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 4)
    store.save(4, {"model": {"a": torch.zeros(1)}}, {"step": "again"})
    newest = store.newest()
    assert newest is not None
    assert newest.state() == {"step": "again"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    file = save(store, 2) / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-3])
    else:
        content[len(content) // 2] ^= 0x20
        file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        newest = store.newest()
    assert newest is not None
    assert newest.step == 1
    assert "step-00000002 is passed over" in caplog.text


def test_what_a_killed_save_leaves_is_not_a_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = save(store, 5)
    path.rename(tmp_path / ".step-00000005.partial-77")
    assert store.newest() is None
    save(store, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    path = save(store, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../elsewhere"] = manifest["files"]["state.json"]
    (tmp_path / "elsewhere").write_text((path / "state.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert store.newest() is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        save(CheckpointStore(tmp_path / "file" / "checkpoints"), 1)
