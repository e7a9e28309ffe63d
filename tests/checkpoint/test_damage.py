"""What a disk damages is never loaded, and what is passed over is told with the reason."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from example_states import alone, check_own, open_writer, save_step, save_steps, table_of
from safetensors.torch import save_file

from megadape.checkpoint.files import digest
from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.loading import find_newest, share_files
from megadape.checkpoint.manifest import QUICK, find_problem
from megadape.checkpoint.reading import Checkpoint
from megadape.errors import CheckpointError
from megadape.testing import run_distributed

TRIALS = 12
"""Of each kind of damage to each file."""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 and 2 of four ranks: each has several files."""
    folder = tmp_path_factory.mktemp("sharded") / "checkpoints"
    run_distributed(4, save_steps, folder, (1, 2), (2, 1, 2), {})
    return folder


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "checkpoints"))


def cut(content: bytes, place: random.Random) -> bytes:
    return content[: place.randrange(len(content))]


def flip(content: bytes, place: random.Random) -> bytes:
    changed = bytearray(content)
    changed[place.randrange(len(content))] ^= 1 << place.randrange(8)
    return bytes(changed)


def lengthen(content: bytes, place: random.Random) -> bytes:
    return content + b"\0"


@pytest.mark.parametrize("damage", [cut, flip, lengthen])
def test_no_damage_to_any_file_is_loaded(
    folder: Path,
    damage: Callable[[bytes, random.Random], bytes],
    caplog: pytest.LogCaptureFixture,
    record_trials: Callable[[str, int], None],
) -> None:
    place, newest = random.Random(7), folder / "step-00000002"
    files = sorted(newest.iterdir())
    assert len(files) >= 9
    for file in files:
        content = file.read_bytes()
        for _ in range(TRIALS):
            file.write_bytes(damage(content, place))
            caplog.clear()
            try:
                found = find_newest(CheckpointFolder(folder), alone())
            finally:
                file.write_bytes(content)
            assert found is not None
            if found.step == 2:  # a bit of the manifest that means nothing
                assert file.name == "manifest.json"
                check_own(found, table_of(alone()))
            else:
                assert found.step == 1
                assert "step-00000002 is passed over" in caplog.text
    record_trials(f"files damaged ({damage.__name__})", len(files) * TRIALS)


def test_a_missing_file_of_any_rank_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = folder / "step-00000002"
    for file in sorted(newest.iterdir()):
        content = file.read_bytes()
        file.unlink()
        caplog.clear()
        found = CheckpointFolder(folder).newest()
        assert found is not None
        assert found.step == 1
        assert f"{file.name} is missing" in caplog.text
        file.write_bytes(content)
    assert find_problem(newest) is None


def find_in_world(folder: Path, tp: int) -> int | str:
    from example_states import mesh_of

    try:
        found = find_newest(CheckpointFolder(folder), mesh_of((tp, 1, 4 // tp)))
    except CheckpointError as error:
        return str(error)
    assert found is not None
    return found.step


def test_all_ranks_agree_on_what_is_damaged_wherever_it_is(folder: Path) -> None:
    file = max((folder / "step-00000002").glob("optimizer-*"))
    file.write_bytes(flip(file.read_bytes(), random.Random(1)))
    assert run_distributed(4, find_in_world, folder, 2) == [1] * 4
    file = max((folder / "step-00000001").glob("model-*"))
    file.write_bytes(flip(file.read_bytes(), random.Random(2)))
    told = run_distributed(4, find_in_world, folder, 2)
    assert len(set(told)) == 1
    assert "none of the checkpoints" in told[0]
    assert "step-00000001: model-" in told[0]


def test_all_damaged_is_an_error_and_not_a_new_beginning(folder: Path) -> None:
    for step in (1, 2):
        (folder / f"step-{step:08d}" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"none of the checkpoints .* state.json is missing"):
        open_writer(folder, alone()).take_over()


def test_sizes_alone_are_quick_and_see_no_flipped_bit(folder: Path) -> None:
    newest = folder / "step-00000002"
    file = min(newest.glob("model-*"))
    file.write_bytes(flip(file.read_bytes(), random.Random(3)))
    assert find_problem(newest, QUICK) is None
    assert "SHA-256" in str(find_problem(newest))


def test_the_digests_are_shared_so_that_each_is_read_once(sharded: Path) -> None:
    from megadape.checkpoint.manifest import read_manifest

    files = read_manifest(sharded / "step-00000002")
    assert not isinstance(files, str)
    shares = [share_files(files, 3, rank) for rank in range(3)]
    assert sorted(name for share in shares for name in share) == sorted(files)
    loads = [sum(files[name].bytes for name in share) for share in shares]
    assert max(loads) - min(loads) <= max(record.bytes for record in files.values())


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/hostname"])
def test_a_manifest_cannot_point_outside(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    manifest = folder / "step-00000002" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = content["files"]["state.json"]
    manifest.write_text(json.dumps(content))
    found = CheckpointFolder(folder).newest()
    assert found is not None
    assert found.step == 1
    assert "which is outside" in caplog.text


def test_a_later_format_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = folder / "step-00000002" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 9'))
    with caplog.at_level(logging.WARNING):
        CheckpointFolder(folder).newest()
    assert "it has format 9, which this version of megadape does not know" in caplog.text


def test_the_first_format_is_read(tmp_path: Path) -> None:
    """One file of parameters, one of moments, no index: what megadape 0.1 wrote before ranks shared the work."""
    path = tmp_path / "step-00000007"
    path.mkdir()
    model = {"a": torch.arange(12.0).view(6, 2), "b": torch.ones(1)}
    save_file(model, path / "model.safetensors")
    save_file({"exp_avg/a": -model["a"], "exp_avg/b": model["b"]}, path / "optimizer.safetensors")
    (path / "state.json").write_text('{"format": 1}')
    names = sorted(file.name for file in path.iterdir())
    files = {name: {"bytes": (path / name).stat().st_size, "sha256": digest(path / name)} for name in names}
    (path / "manifest.json").write_text(json.dumps({"files": files}))
    found = CheckpointFolder(tmp_path).newest()
    assert found == Checkpoint(path, 7)
    assert found.moments() == ["exp_avg"]
    assert found.tensors("model").keys() == model.keys()
    assert torch.equal(found.read("exp_avg/a"), -model["a"])
    from megadape.parameters import ParameterSpec, constant

    spec = ParameterSpec((6, 2), constant(0.0), 0, slice(1, 2), blocks=2)
    assert torch.equal(found.read_part("a", spec), model["a"][[1, 4]])


def test_another_model_is_told(sharded: Path) -> None:
    from megadape.parameters import ParameterSpec, constant

    found = CheckpointFolder(sharded).newest()
    assert found is not None
    with pytest.raises(CheckpointError, match=r"has no head.weight: it was made with other model settings"):
        found.read_part("head.weight", ParameterSpec((1,), constant(0.0)))
    with pytest.raises(CheckpointError, match=r"embedding.weight is \[24, 8\] .* and \[32, 8\] in the model"):
        found.read_part("embedding.weight", ParameterSpec((32, 8), constant(0.0), 0))


def test_what_is_saved_after_damage_counts_and_the_damaged_one_goes(folder: Path) -> None:
    (folder / "step-00000002" / "index.json").unlink()
    writer = open_writer(folder, alone(), keep=1)
    found = writer.take_over()
    assert found is not None
    assert found.step == 1
    save_step(writer, 2)
    save_step(writer, 3)
    names = {path.name for path in folder.iterdir()}
    assert names == {"fence.json", "step-00000001", "step-00000003"}
