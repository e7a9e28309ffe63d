"""What is kept, whatever is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from example_states import save_steps
from hypothesis import given, settings
from hypothesis import strategies as st

from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.manifest import find_problem
from megadape.checkpoint.retention import Retention, choose_removable

STEPS = st.lists(st.integers(1, 40), unique=True, max_size=12)


@given(steps=STEPS, data=st.data(), keep=st.integers(1, 4), every=st.sampled_from([0, 5, 7]))
def test_the_newest_valid_and_the_permanent_stay(steps: list[int], data: st.DataObject, keep: int, every: int) -> None:
    valid = data.draw(st.sets(st.sampled_from(steps))) if steps else set()
    removed = set(choose_removable(steps, valid, keep, every))
    assert removed <= set(steps)
    assert not removed & set(sorted(valid)[-keep:])
    assert not (every and any(step % every == 0 for step in removed))
    if len(valid) < keep:
        assert not [step for step in removed if valid and step > min(valid)]
    if not valid:
        assert not removed
    else:
        oldest = sorted(valid)[-keep:][0]
        assert {step for step in steps if step < oldest and not (every and step % every == 0)} == removed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid one to copy."""
    folder = tmp_path_factory.mktemp("one")
    save_steps(folder, (1,), None, {})
    return folder / "step-00000001"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "none": lambda path: None,
    "missing": lambda path: (path / "model-00000.safetensors").unlink(),
    "cut": lambda path: (path / "index.json").write_bytes(b"{"),
    "flipped": lambda path: flip(path / "optimizer-00000.safetensors"),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@settings(max_examples=40)
@given(
    damages=st.dictionaries(st.integers(1, 12), st.sampled_from(sorted(DAMAGES)), max_size=6),
    keep=st.integers(1, 3),
    every=st.sampled_from([0, 4]),
    data=st.data(),
)
def test_only_sound_checkpoints_count(
    checkpoint: Path, damages: dict[int, str], keep: int, every: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = CheckpointFolder(Path(name))
        for step, damage in damages.items():
            shutil.copytree(checkpoint, folder.final(step))
            DAMAGES[damage](folder.final(step))
        valid = sorted(step for step, damage in damages.items() if damage == "none")
        loaded = data.draw(st.sampled_from(valid)) if valid else None
        Retention(folder, keep, every, loaded and folder.final(loaded)).apply()
        left = {one.step for one in folder.list()}
        wanted = {
            *valid[-keep:],
            *([loaded] if loaded else []),
            *(step for step in damages if every and step % every == 0),
        }
        assert wanted <= left
        assert {step for step in valid if step in left} == wanted & set(valid)
        newest = folder.newest()
        assert (newest and newest.step) == (valid[-1] if valid else None)
        if newest:
            assert find_problem(newest.path) is None
        # damaged ones go with their age, and none while nothing valid is there
        assert not valid or not [step for step in left - wanted if step < valid[-keep:][0]]
        assert valid or left == set(damages)
