"""Regular tasks: a finite automaton solves them."""

from __future__ import annotations

from typing import ClassVar

import torch

from megadape.chomsky.task import Level, OneSymbol, Sample, draw_symbols

MODULUS = 5
"""States of the cycle, and what numbers are counted modulo."""

DIGITS = tuple(str(digit) for digit in range(MODULUS))


class EvenPairs(OneSymbol):
    """Parity of the number of 01 and 10 in a bit string: 1 where it is odd."""

    name = "even_pairs"
    level: ClassVar[Level] = "regular"

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform bits; every change of the bit is one such pair."""
        bits = draw_symbols(2, batch, length, generator)
        return Sample(bits, (bits[:, :1] - bits[:, -1:]).abs())


class ParityCheck(OneSymbol):
    """Number of ones modulo 2."""

    name = "parity_check"
    level: ClassVar[Level] = "regular"

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform bits."""
        bits = draw_symbols(2, batch, length, generator)
        return Sample(bits, bits.sum(1, keepdim=True) % 2)


class CycleNavigation(OneSymbol):
    """State of a cycle of 5 after steps of -1, 0 and +1 from state 0."""

    name = "cycle_navigation"
    level: ClassVar[Level] = "regular"
    alphabet = ("-1", "0", "+1")
    answers = DIGITS
    choices = MODULUS

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform steps."""
        steps = draw_symbols(3, batch, length, generator)
        return Sample(steps, (steps - 1).sum(1, keepdim=True) % MODULUS)


class ModularArithmetic(OneSymbol):
    """Value modulo 5 of digits with + - * between them, multiplication first.

    An even length is taken as one less. The benchmark's alphabet has a ninth symbol, which does not occur.
    """

    name = "modular_arithmetic"
    level: ClassVar[Level] = "regular"
    alphabet = (*DIGITS, "+", "-", "*", "_")
    answers = DIGITS
    choices = MODULUS

    def input_length(self, length: int) -> int:
        """As in ``Task``: odd."""
        return length - 1 + length % 2

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform digits and operators."""
        minus, times = self.alphabet.index("-"), self.alphabet.index("*")
        inputs = torch.empty(batch, length, dtype=torch.int64)
        inputs[:, ::2] = digits = draw_symbols(MODULUS, batch, length // 2 + 1, generator)
        inputs[:, 1::2] = operators = MODULUS + draw_symbols(3, batch, length // 2, generator)
        signed = torch.where(operators == minus, -digits[:, 1:], digits[:, 1:]).T.contiguous()
        multiplies, digits = (operators == times).T.contiguous(), digits.T.contiguous()
        done, term = torch.zeros(batch, dtype=torch.int64), digits[0]  # the sum so far, and the product still open
        for digit, fresh, goes_on in zip(digits[1:], signed, multiplies, strict=True):
            done = torch.where(goes_on, done, done + term)
            term = torch.where(goes_on, term * digit % MODULUS, fresh)
        return Sample(inputs, ((done + term) % MODULUS)[:, None])
