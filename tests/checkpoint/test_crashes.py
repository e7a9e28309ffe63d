"""kill -9 at every fault point of a save: never a damaged checkpoint that is loaded, never a valid one that is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_states import alone, check_own, open_writer, save_step, save_steps, table_of

from megadape.checkpoint.folder import CheckpointFolder
from megadape.faults import POINTS
from megadape.testing import RankFailed, run_distributed

EVERY_RANK = (
    "before_write",
    "before_tensor",
    "before_flush",
    "after_flush",
    "before_report",
    "after_report",
)
COUNTED = ("after_rename", "before_retention", "during_removal")
"""Points at which the checkpoint that is being saved is there already."""

ROOM = "checkpoint."
CHECKPOINT_POINTS = [point.removeprefix(ROOM) for point in POINTS if point.startswith(ROOM)]

MODES = {"sync": False, "async": True}


def crash(folder: Path, fault: str, ranks: int, asynchronous: bool, *steps: int) -> None:
    """Save steps in a world of which a rank is killed on the way."""
    layout = (ranks, 1, 1) if ranks > 1 else None
    settings = {"asynchronous": asynchronous, "keep": 1}
    with pytest.raises(RankFailed, match="exit code -9"):
        run_distributed(ranks, save_steps, folder, steps or (3,), layout, settings, fault, timeout=60)


def check_survival(folder: Path, wanted: set[int]) -> None:
    """What is found is whole and one of the wanted steps, and the run goes on from there, leaving nothing behind."""
    newest = CheckpointFolder(folder).newest()
    assert newest is not None
    assert newest.step in wanted
    check_own(newest, table_of(alone()))
    writer = open_writer(folder, alone(), keep=1)
    found = writer.take_over()
    assert found is not None
    assert found.step == newest.step
    save_step(writer, found.step + 1)
    save_step(writer, found.step + 2)
    kept = {f"step-{found.step:08d}", f"step-{found.step + 2:08d}", "fence.json"}  # what was loaded is never dropped
    assert {path.name for path in folder.iterdir()} == kept


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Steps 1 and 2, of which 2 is kept."""
    folder = tmp_path / "checkpoints"
    save_steps(folder, range(1, 3), None, {"keep": 1})
    return folder


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", [point for point in CHECKPOINT_POINTS if "between" not in point])
def test_killed_at_a_point(saved: Path, point: str, mode: str, record_trials: Callable[[str, int], None]) -> None:
    # the second save is the first after which something is removed: what was loaded stays
    steps = (3, 4) if point == "during_removal" else (3,)
    crash(saved, f"checkpoint.{point}=kill", 1, MODES[mode], *steps)
    check_survival(saved, {steps[-1]} if point in COUNTED else {2})
    record_trials("kills at a fault point of one rank", 1)


@pytest.mark.parametrize("mode", MODES)
def test_killed_in_the_middle_of_the_tensors(saved: Path, mode: str, record_trials: Callable[[str, int], None]) -> None:
    for count in random.Random(mode).sample(range(2, 66), 4):
        crash(saved, f"checkpoint.before_tensor=kill@{count}", 1, MODES[mode])
        newest = CheckpointFolder(saved).newest()
        assert newest is not None
        assert newest.step == 2
    check_survival(saved, {2})
    record_trials("kills in the middle of the tensors", 4)


@pytest.mark.parametrize("mode", MODES)
def test_killed_while_a_step_is_replaced(saved: Path, mode: str, record_trials: Callable[[str, int], None]) -> None:
    for point in ("after_manifest", "between_renames", "after_rename"):
        crash(saved, f"checkpoint.{point}=kill", 1, MODES[mode], 2)
        newest = CheckpointFolder(saved).newest()
        assert newest is not None
        assert newest.step == 2
        check_own(newest, table_of(alone()))
    check_survival(saved, {2})
    record_trials("kills while a step is replaced", 3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_ranks_is_killed(
    saved: Path, victim: int, mode: str, record_trials: Callable[[str, int], None]
) -> None:
    points = EVERY_RANK if victim else ("before_manifest", "after_manifest")
    for point in points:
        crash(saved, f"checkpoint.{point}=kill#{victim}", 2, MODES[mode])
        newest = CheckpointFolder(saved).newest()
        assert newest is not None
        # a rank that has said what it wrote is no longer needed in the background
        assert newest.step in ({2, 3} if (point, mode) == ("after_report", "async") else {2})
    check_survival(saved, {2, 3})
    record_trials("kills of one rank of two", len(points))


def test_every_point_is_tried() -> None:
    tried: set[Any] = {"between_renames", *EVERY_RANK, *COUNTED, "before_manifest", "after_manifest", "after_take_over"}
    assert tried == set(CHECKPOINT_POINTS)
