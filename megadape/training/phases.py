"""Where the time of a step goes: the parts add up to the whole."""

from __future__ import annotations

import time

PHASES = ("data", "forward_backward", "optimizer")
"""Of an update, in their order. forward_backward ends when the gradient's norm is known: with the exchange of gradients
between ranks and, in a pipeline, waiting for other stages. On a GPU, what the optimizer has queued and not done counts
for what waits for it: the next step."""

ASIDE = ("validate", "save")
"""What comes between updates: validation after this one, and saving since the update before this one."""


class StepClock:
    """Reads the clock at the end of each phase of one step, which begins now."""

    def __init__(self) -> None:
        self._last = self._started = time.perf_counter()
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def end(self, phase: str) -> None:
        """A phase ends here; a phase that ends twice has both times."""
        now = time.perf_counter()
        self._seconds[phase] += now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds from the beginning to the end of the last phase."""
        return self._last - self._started

    def row(self) -> dict[str, float]:
        """For metrics.jsonl: seconds, and the seconds of each phase."""
        return {"seconds": self.total, **{f"seconds_{phase}": spent for phase, spent in self._seconds.items()}}
