"""What to do about an update whose gradient is not finite, or whose loss or gradient norm is a spike.

Judged between the backward pass and the optimizer, from numbers that are the same on all ranks, so that all ranks judge
alike without talking. A skipped update leaves parameters and moments as they were; its data is passed over.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from pydantic import Field

from megadape.settings import Settings

NORMAL = 1.4826
"""Standard deviations a median absolute deviation of normally distributed numbers."""

FLOOR = 0.01
"""The deviation is taken to be at least this share of the median: numbers that hardly move would all be spikes."""


class AnomalySettings(Settings):
    """Updates that look wrong. With precision: fp16, an overflow is the loss scale's business and not judged here."""

    not_finite: Literal["skip", "stop"] = "stop"
    """A loss or gradient of NaN or infinity: leave the update out, or end the run with an error."""

    spike: Literal["count", "skip", "stop"] = "count"
    """A loss or gradient norm far above the last ones: note it in metrics.jsonl, leave the update out, or end the run
    with an error."""

    deviations: float = Field(default=8.0, gt=0)
    """Robust standard deviations above the median of the window from which on it is a spike."""

    window: int = Field(default=128, ge=8)
    """Updates that it is compared with; until there are so many, nothing is a spike."""

    max_skips: int = Field(default=5, ge=1)
    """Updates left out one after another after which the run ends with an error: it does not recover by itself."""


@dataclass(frozen=True)
class Verdict:
    """On one update."""

    skip: bool = False
    """Leave it out."""
    stop: bool = False
    """End the run, as failed; implies skip."""
    reason: str | None = None
    """What is wrong with it, if anything."""


FINE = Verdict()


class AnomalyWatch:
    """Judges every update in its turn; the same on every rank."""

    def __init__(self, settings: AnomalySettings) -> None:
        self.settings = settings
        self._losses: deque[float] = deque(maxlen=settings.window)
        self._norms: deque[float] = deque(maxlen=settings.window)
        self.in_a_row = 0
        """Left out since the last update that was made."""
        self.skipped = 0
        """Left out in all."""
        self.spikes = 0
        """Seen in all, whatever became of them."""

    def judge(self, loss: float, grad_norm: float) -> Verdict:
        """What to do with an update.

        Args:
            loss: mean over the global batch.
            grad_norm: of the whole gradient, before clipping.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return self._act(self.settings.not_finite, f"loss {loss:g} and gradient norm {grad_norm:g} are not finite")
        spike = self._spike("loss", loss, self._losses) or self._spike("gradient norm", grad_norm, self._norms)
        if spike is not None:
            self.spikes += 1
            verdict = self._act(self.settings.spike, spike)
            if verdict.skip:
                return verdict
        self._losses.append(loss)
        self._norms.append(grad_norm)
        self.in_a_row = 0
        return FINE if spike is None else Verdict(reason=spike)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: JSON."""
        return {
            "losses": list(self._losses),
            "grad_norms": list(self._norms),
            "in_a_row": self.in_a_row,
            "skipped": self.skipped,
            "spikes": self.spikes,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` returned, under any settings: of a longer window the newest are kept."""
        self._losses = deque(state["losses"], self.settings.window)
        self._norms = deque(state["grad_norms"], self.settings.window)
        self.in_a_row, self.skipped, self.spikes = state["in_a_row"], state["skipped"], state["spikes"]

    def _act(self, action: str, what: str) -> Verdict:
        if action == "count":
            return Verdict(reason=what)
        if action == "stop":
            return Verdict(skip=True, stop=True, reason=what)
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row < self.settings.max_skips:
            return Verdict(skip=True, reason=what)
        return Verdict(skip=True, stop=True, reason=f"{what}; {self.in_a_row} updates in a row were left out")

    def _spike(self, name: str, value: float, window: deque[float]) -> str | None:
        if len(window) < self.settings.window:
            return None
        middle = median(window)
        deviation = max(NORMAL * median(abs(each - middle) for each in window), FLOOR * abs(middle))
        if value <= middle + self.settings.deviations * deviation:
            return None
        return f"{name} {value:.4g} is {(value - middle) / deviation:.1f} deviations above the last {len(window)}"
