"""Context-sensitive tasks on strings: an automaton with a tape of the input's length solves them."""

from __future__ import annotations

from typing import ClassVar

import torch

from megadape.chomsky.regular import DIGITS, MODULUS
from megadape.chomsky.task import BITS, Level, OneSymbol, Sample, Task, draw_symbols


class DuplicateString(Task):
    """A bit string twice."""

    name = "duplicate_string"
    level: ClassVar[Level] = "context-sensitive"

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return 2 * length

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform bits."""
        bits = draw_symbols(2, batch, length, generator)
        return Sample(bits, torch.cat((bits, bits), 1))


class MissingDuplicateString(OneSymbol):
    """A bit string twice, one symbol of it masked: that bit.

    Length 1 is taken as 2; where the length is odd, a symbol that means nothing stands at the end.
    """

    name = "missing_duplicate_string"
    level: ClassVar[Level] = "context-sensitive"
    alphabet = (*BITS, "?", "_")

    def input_length(self, length: int) -> int:
        """As in ``Task``."""
        return max(2, length)

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform bits, any of them masked."""
        bits = draw_symbols(2, batch, length // 2, generator)
        twice = torch.cat((bits, bits), 1)
        place = torch.randint(twice.shape[1], (batch, 1), generator=generator)
        masked = twice.scatter(1, place, self.alphabet.index("?"))
        rest = torch.full((batch, length % 2), self.alphabet.index("_"))
        return Sample(torch.cat((masked, rest), 1), twice.gather(1, place))


class OddsFirst(Task):
    """The bits at positions 1, 3, 5, .., then those at 2, 4, 6, ..; the other way round on request."""

    name = "odds_first"
    level: ClassVar[Level] = "context-sensitive"

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return length

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform bits."""
        bits = draw_symbols(2, batch, length, generator)
        parts = [bits[:, ::2], bits[:, 1::2]]
        return Sample(bits, torch.cat(parts if self.options.odds_first == "definition" else parts[::-1], 1))


class BucketSort(Task):
    """Symbols of five kinds in order."""

    name = "bucket_sort"
    level: ClassVar[Level] = "context-sensitive"
    alphabet = DIGITS
    answers = DIGITS
    choices = MODULUS

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return length

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform symbols."""
        symbols = draw_symbols(MODULUS, batch, length, generator)
        return Sample(symbols, symbols.sort(1).values)
