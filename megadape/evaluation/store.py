"""What has been measured on one checkpoint, kept piece by piece, so that a killed evaluation goes on.

    RUN/evaluation/store/step-00000300-1f0c2a.../     a folder a checkpoint, named by the digest of its tensors
      pieces-7d31a6.jsonl      a line a piece, in the order in which one process measured them
      results-93b2c4.json      all results of one plan, when it is complete

A piece is known by a digest of everything that decides its values: the tokens that are fed and what is counted of them.
So a piece is found again by whatever plan wants the very same, and never taken for another. Every process writes a file
of its own; a line that a killed one left unfinished is no line. Needs no torch.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadape.errors import EvaluationError
from megadape.evaluation.output import write_whole


@dataclass(frozen=True)
class Measured:
    """What a piece gave."""

    values: tuple[float, ...]
    seconds: float


class Store:
    """The pieces of one checkpoint.

    Args:
        folder: made when the first piece is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = folder / f"pieces-{secrets.token_hex(8)}.jsonl"

    def read(self) -> dict[str, Measured]:
        """Digest -> piece, of all processes that ever wrote here; the first of a digest counts."""
        found: dict[str, Measured] = {}
        for path in sorted(self.folder.glob("pieces-*.jsonl")):
            for line in path.read_bytes().splitlines(keepends=True):
                piece = parse_line(line)
                if piece is not None:
                    found.setdefault(*piece)
        return found

    def append(self, digest: str, measured: Measured) -> None:
        """Keep a piece.

        Raises:
            EvaluationError: the disk refused.
        """
        line = json.dumps({"piece": digest, "values": measured.values, "seconds": measured.seconds}) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._own.open("ab", buffering=0) as file:
                if file.write(line.encode()) != len(line):
                    raise OSError(None, "the disk is full")
        except OSError as error:
            raise EvaluationError(f"{self._own} cannot be written: {error.strerror or error}") from error

    def read_results(self, plan: str) -> dict[str, Any] | None:
        """The results of a plan; None where it is not complete."""
        try:
            content: dict[str, Any] = json.loads(self._results(plan).read_bytes())
        except (OSError, ValueError):
            return None
        return content if content.get("plan") == plan else None

    def write_results(self, plan: str, content: dict[str, Any]) -> None:
        """Keep the results of a complete plan."""
        write_whole(self._results(plan), json.dumps({"plan": plan, **content}, indent=1))

    def _results(self, plan: str) -> Path:
        return self.folder / f"results-{plan[:16]}.json"


def parse_line(line: bytes) -> tuple[str, Measured] | None:
    """A piece; None for what a killed process or a full disk left of one."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
        return str(content["piece"]), Measured(tuple(map(float, content["values"])), float(content["seconds"]))
    except (ValueError, KeyError, TypeError):
        return None
