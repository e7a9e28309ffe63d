"""How far a long reading is."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[int, int], None]
"""Called now and then with what is done and all that there is to do, both in tokens or both in bytes."""


class Meter:
    """Adds up what is done.

    Args:
        total: what there is to do, in any unit.
        tell: whom to tell; None for nobody.
    """

    def __init__(self, total: int, tell: Tell | None) -> None:
        self._total, self._tell = total, tell
        self._done = 0

    def add(self, amount: int) -> None:
        """So much more is done."""
        self._done += amount
        if self._tell is not None:
            self._tell(self._done, self._total)
