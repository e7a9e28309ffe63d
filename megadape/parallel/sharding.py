"""How one rank holds a model that several ranks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megadape.errors import ConfigurationError
from megadape.parallel.group import ALONE, Group

Mixing = Literal["rows", "heads"]
"""How DAPE sees the heads of other ranks."""


@dataclass(frozen=True)
class Sharding:
    """What layers need to know of the ranks beside this one."""

    tp: Group = ALONE
    """Share every layer."""

    sequence_parallel: bool = False
    """Whether activations between the sharded regions are split along the sequence."""

    mixing: Mixing = "rows"
    """How DAPE sees all heads."""

    context: Group = ALONE
    """Share every sequence (evaluation): each holds all parameters and some of the rows."""

    def own_part(self, size: int, what: str) -> slice:
        """This rank's equal part of something that tensor parallelism splits; ``ConfigurationError`` if uneven."""
        if size % self.tp.size:
            raise ConfigurationError(
                f"{what} % parallel.tp must be 0, but {size} % {self.tp.size} = {size % self.tp.size}"
            )
        part = size // self.tp.size
        return slice(self.tp.rank * part, (self.tp.rank + 1) * part)

    def splits_sequence(self, length: int) -> bool:
        """Whether activations of this length are split: a length that does not divide is kept whole on every rank,
        which computes the same."""
        return self.sequence_parallel and length % self.tp.size == 0


WHOLE = Sharding()
"""One rank holds everything."""
