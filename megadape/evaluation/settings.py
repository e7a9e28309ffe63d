"""How a model is evaluated at lengths that it was not trained at."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megadape.settings import Settings

PAPER_LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)


class EvaluationSettings(Settings):
    """Lengths, what is scored, and how much."""

    lengths: tuple[int, ...] = Field(default=PAPER_LENGTHS, min_length=1)
    """Tokens fed at a time."""

    mode: Literal["fixed_target", "last_k", "all"] = "fixed_target"
    """Which predictions count: the same final ones at every length, the last k of each sequence, or all."""

    last_k: int = Field(default=256, ge=1)
    """At most how many predictions at the end of a sequence count (fixed_target, last_k)."""

    sequences: int = Field(default=16, ge=1)
    """At most how many sequences a length."""

    batch_tokens: int = Field(default=16384, ge=1)
    """Tokens fed at once; at least one sequence is."""
