"""The dynamic loss scale of fp16 (Micikevicius et al., 2018): as large as gradients allow, so that few underflow."""

from __future__ import annotations

from pydantic import Field

from megadape.errors import TrainingError
from megadape.settings import Settings


class LossScaleSettings(Settings):
    """With precision: fp16, what the loss is multiplied by before the backward pass."""

    initial: float = Field(default=2.0**16, gt=0)
    """At the first update."""

    growth_interval: int = Field(default=2000, ge=1)
    """Updates without an overflow after which it is doubled."""

    minimum: float = Field(default=1.0, gt=0)
    """An overflow at this scale or below ends the run: the gradients themselves are not finite."""


class LossScale:
    """Halved when a gradient overflows (that update is skipped), doubled after enough updates without."""

    def __init__(self, settings: LossScaleSettings) -> None:
        self.settings = settings
        self.value = settings.initial
        self.good_updates = 0

    def update(self, overflowed: bool, update: int) -> None:
        """Take notice of an update, the same on every rank.

        Raises:
            TrainingError: it overflowed, and the scale is at its minimum.
        """
        if not overflowed:
            self.good_updates += 1
            if self.good_updates == self.settings.growth_interval:
                self.value, self.good_updates = 2 * self.value, 0
            return
        if self.value / 2 < self.settings.minimum:
            raise TrainingError(
                f"the gradients of step {update} are not finite at a loss scale of {self.value:g}, and "
                f"training.loss_scale.minimum is {self.settings.minimum:g}: the run diverges; lower "
                "training.optimizer.learning_rate, or use training.precision: bf16"
            )
        self.value, self.good_updates = self.value / 2, 0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"value": self.value, "good_updates": self.good_updates}

    def load_state(self, state: dict[str, float]) -> None:
        """Take up what ``state`` returned."""
        self.value, self.good_updates = state["value"], int(state["good_updates"])


def build_loss_scale(precision: str, settings: LossScaleSettings) -> LossScale | None:
    """fp16 has one; bf16 and fp32 have float32's range and need none."""
    return LossScale(settings) if precision == "fp16" else None
