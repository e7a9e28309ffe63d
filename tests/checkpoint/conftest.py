"""Helpers of the tests of checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# the tests are no package, and share their example states; other processes find them by this path too
sys.path.append(str(Path(__file__).parent))

RecordTrials = Callable[[str, int], None]


@pytest.fixture
def record_trials(record_property: Callable[[str, object], None]) -> RecordTrials:
    """Says in the summary how many trials of what a test made."""
    return lambda what, count: record_property("trials", f"{count} {what}")
