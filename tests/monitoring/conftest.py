"""Runs to look at: small real ones, and their remains."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two real runs: ``done``, and ``sub/stopped`` after 3 of its 6 steps."""
    from tiny_runs import train_tiny

    folder = tmp_path_factory.mktemp("runs")
    train_tiny(folder / "done", corpus, "training.steps=5", "validation.every=2", "validation.sequences=4")
    train_tiny(folder / "sub/stopped", corpus, "training.steps=6", stop_after_steps=3)
    return folder
