"""Learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, cos, pi
from typing import Literal

from pydantic import Field

from megadape.settings import Settings


class ScheduleSettings(Settings):
    """Warm-up followed by decay."""

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape after the warm-up; wsd: constant, then a linear descent over the last part."""

    warmup: float = Field(default=0.01, ge=0, le=1)
    """Share of all steps over which the rate rises linearly."""

    minimum: float = Field(default=0.1, ge=0, le=1)
    """Final rate as a share of the peak."""

    descent: float = Field(default=0.2, gt=0, le=1)
    """wsd: share of all steps over which the rate falls."""

    def factor(self, step: int, steps: int) -> float:
        """The share of the peak rate at a step.

        Args:
            step: 0 for the first update.
            steps: of the whole run.
        """
        rise = ceil(self.warmup * steps)
        if step < rise:
            return (step + 1) / rise
        # the last update runs at the minimum
        progress = min(1.0, (step - rise) / max(1, steps - 1 - rise))
        return self.minimum + (1 - self.minimum) * SHAPES[self.kind](progress, self.descent)


def _wsd(progress: float, descent: float) -> float:
    return min(1.0, (1 - progress) / descent)


SHAPES: dict[str, Callable[[float, float], float]] = {
    "cosine": lambda progress, _: (1 + cos(pi * progress)) / 2,
    "linear": lambda progress, _: 1 - progress,
    "constant": lambda progress, _: 1.0,
    "wsd": _wsd,
}
"""(progress after warm-up in 0..1, descent) -> 1 at the peak, 0 at the minimum."""
