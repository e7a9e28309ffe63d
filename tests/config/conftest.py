"""Helpers of the tests of settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# the tests are no package, and share their example classes
sys.path.append(str(Path(__file__).parent))

WriteFile = Callable[[str, str], str]


@pytest.fixture
def write_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteFile:
    """Writes a file into the working folder and gives its relative path."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return write
