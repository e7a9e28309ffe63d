"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

State = Literal["ok", "warning", "problem"]
"""warning: works, but worse than it could; problem: something that is asked for will fail."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    seen: str
    """What is there, in words."""
    remedy: str | None = None
    """What mends it, a command where there is one; None where nothing is to be mended."""


@dataclass(frozen=True)
class Subject:
    """What is examined besides the machine."""

    run_dir: Path
    named: bool = False
    """Whether somebody asked about this folder; else it is where runs usually go."""


class Look(Protocol):
    """Looks at one thing, or a few that belong together."""

    def __call__(self, subject: Subject) -> Iterable[Finding]:
        """What it finds; whatever it raises becomes a problem."""
        ...


@dataclass(frozen=True)
class Check:
    """One entry of the registry."""

    name: str
    look: Look
    seconds: float = 30.0
    """Allowed to it, on a busy machine."""
    needs: tuple[str, ...] = ()
    """Checks without which it makes no sense: where one of them found a problem, it is left out."""


def fine(name: str, seen: str) -> Finding:
    """Nothing to mend."""
    return Finding(name, "ok", seen)


def warn(name: str, seen: str, remedy: str) -> Finding:
    """Works, but worse than it could."""
    return Finding(name, "warning", seen, remedy)


def bad(name: str, seen: str, remedy: str) -> Finding:
    """Will fail."""
    return Finding(name, "problem", seen, remedy)


def first_line(error: BaseException | str) -> str:
    """An error in one line, with its kind."""
    lines = str(error).strip().splitlines()
    words = lines[0] if lines else "no message"
    return words if isinstance(error, str) else f"{type(error).__name__}: {words}"
