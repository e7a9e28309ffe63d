"""Saved on any layout, loaded on any other: all pairs of factorings of 1, 2 and 4 ranks, at once and in background."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from example_states import (
    LAYOUTS,
    MOMENTS,
    Layout,
    alone,
    check_own,
    full_tensor,
    mesh_of,
    own_state,
    save_steps,
    table_of,
)
from safetensors.torch import load_file

from megadape.checkpoint.deal import deal_among, deal_tensors, join_own, own_place
from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.loading import find_newest
from megadape.checkpoint.manifest import read_manifest
from megadape.checkpoint.tensor_file import Stored
from megadape.testing import run_distributed

MODES = {"sync": False, "async": True}


def folder_of(root: Path, layout: Layout, mode: str) -> Path:
    return root / f"{'-'.join(str(size) for size in layout)}-{mode}"


def save_all(root: Path, ranks: int) -> None:
    for layout in LAYOUTS[ranks]:
        for mode, asynchronous in MODES.items():
            save_steps(folder_of(root, layout, mode), range(1, 3), layout, {"asynchronous": asynchronous})


def load_all(root: Path, ranks: int) -> int:
    loaded = 0
    for layout in LAYOUTS[ranks]:
        mesh = mesh_of(layout) if ranks > 1 else alone()
        for saved in (one for several in LAYOUTS.values() for one in several):
            checkpoint = find_newest(CheckpointFolder(folder_of(root, saved, "async")), mesh)
            assert checkpoint is not None
            assert checkpoint.step == 2
            check_own(checkpoint, table_of(mesh))
            loaded += 1
    return loaded


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    for mode, asynchronous in MODES.items():
        save_steps(folder_of(root, (1, 1, 1), mode), range(1, 3), None, {"asynchronous": asynchronous})
    for ranks in (2, 4):
        run_distributed(ranks, save_all, root, ranks)
    return root


def test_every_layout_loads_what_every_other_saved(saved: Path, record_trials: Callable[[str, int], None]) -> None:
    pairs = load_all(saved, 1) + sum(run_distributed(ranks, load_all, saved, ranks)[0] for ranks in (2, 4))
    record_trials("pairs of layouts", pairs)
    assert pairs == 100


def test_the_background_writes_the_same_bytes(saved: Path) -> None:
    for layout in (one for several in LAYOUTS.values() for one in several):
        now, later = (folder_of(saved, layout, mode) / "step-00000002" for mode in MODES)
        files = read_manifest(now)
        assert not isinstance(files, str)
        assert files == read_manifest(later)


def test_all_layouts_write_the_same_tensors_each_once_as_the_library_reads_them(saved: Path) -> None:
    whole = {name: full_tensor(name, spec, 2) for name, spec in table_of(alone()).items()}
    moments = {
        f"{m}/{name}": full_tensor(f"{m}/{name}", spec, 2) for m in MOMENTS for name, spec in table_of(alone()).items()
    }
    for layout in (one for several in LAYOUTS.values() for one in several):
        for kind, wanted in (("model", whole), ("optimizer", moments)):
            files = sorted((folder_of(saved, layout, "sync") / "step-00000002").glob(f"{kind}-*.safetensors"))
            assert len(files) > 1 or layout == (1, 1, 1) or kind == "model"
            read = [(name, tensor) for file in files for name, tensor in load_file(file).items()]
            assert len(read) == len(wanted)
            for name, tensor in read:
                assert torch.equal(tensor, wanted[name]), name


def hold_one_at_a_time(layout: Layout) -> tuple[int, int]:
    """Tensors that this rank joined, and how many of them it ever held at once."""
    mesh = mesh_of(layout)
    table = table_of(mesh)
    own, _ = own_state(table, 1)
    deal = deal_among(mesh, own, table)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = joined = 0
    stream = join_own(mesh, own, deal)
    for name, tensor in stream:
        if tensor is not own[name]:
            alive.append(weakref.ref(tensor))
            joined += 1
            most = max(most, sum(one() is not None for one in alive))
        del tensor
    assert deal.of(own_place(mesh)).keys() <= table.keys()
    return joined, most


def test_no_rank_holds_more_than_one_joined_tensor() -> None:
    counts = run_distributed(2, hold_one_at_a_time, (2, 1, 1))
    assert sum(joined for joined, _ in counts) == 1 + 4 * 3  # the embedding, three of each layer
    assert {most for _, most in counts} == {1}


def test_ranks_of_a_stage_write_about_as_much() -> None:
    sizes = [96, 64, 64, 48, 32, 16, 16, 8, 8, 8, 4, 4]
    stage = {f"t{n}": Stored((size,), "F32", 0) for n, size in enumerate(sizes)}
    deal = deal_tensors([stage, {"t0": stage["t0"], "own": Stored((8,), "F32")}], shares=2, parts=2)
    loads: dict[object, int] = {}
    for name, writer in deal.writers.items():
        loads[writer] = loads.get(writer, 0) + deal.tensors[name].nbytes
    first = [load for writer, load in loads.items() if writer.stage == 0]  # type: ignore[attr-defined]
    assert sum(first) == 4 * sum(sizes)
    assert max(first) == 4 * 96  # the largest tensor alone
    assert deal.writers["t0"].stage == 0
    assert deal.writers["own"].stage == 1


def test_wide_types_come_first_so_that_all_are_aligned() -> None:
    stage = {"a": Stored((3,), "BF16"), "b": Stored((3,), "F32"), "c": Stored((1,), "U8")}
    assert list(deal_tensors([stage], 1, 1).tensors) == ["b", "a", "c"]
