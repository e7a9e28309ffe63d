"""When to save and what to keep."""

from __future__ import annotations

from pydantic import Field

from megadape.settings import Settings


class CheckpointSettings(Settings):
    """Checkpoints of a run."""

    save_every: int = Field(default=1000, ge=0)
    """Steps between checkpoints; one is always written at the end; 0: at the end alone."""

    keep: int = Field(default=2, ge=1)
    """How many of the newest to keep."""

    keep_every: int = Field(default=0, ge=0)
    """Checkpoints of every so many steps are kept for ever; 0: none."""

    asynchronous: bool = False
    """Write in the background, from a copy in CPU memory, while training goes on."""

    wait_minutes: float = Field(default=30.0, gt=0)
    """How long the first rank waits for what the others write in the background."""
