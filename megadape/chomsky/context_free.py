"""Deterministic context-free tasks: an automaton with a stack solves them."""

from __future__ import annotations

from typing import ClassVar

import torch

from megadape.chomsky.expressions import draw_expressions
from megadape.chomsky.regular import DIGITS, MODULUS
from megadape.chomsky.task import Level, OneSymbol, Sample, Task, draw_symbols

END = "end"


class StackManipulation(Task):
    """A stack from bottom to top, then POP, PUSH 0 and PUSH 1: the stack that is left, from top to bottom.

    An end token follows, then padding. POP does nothing to an empty stack.
    """

    name = "stack_manipulation"
    level: ClassVar[Level] = "context-free"
    alphabet = ("0", "1", "POP", "PUSH0", "PUSH1")
    answers = ("0", "1", END)

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return length + 1

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: the stack's height is uniform in 1 .. length - 1, bits and actions are uniform."""
        height = 1 + torch.randint(max(1, length - 1), (batch, 1), generator=generator)
        content = draw_symbols(2, batch, length, generator)
        actions = 2 + draw_symbols(3, batch, length, generator)
        inputs = torch.where(torch.arange(length) < height, content, actions)
        pushes = inputs != 2
        walk = torch.where(pushes, 1, -1).cumsum(1)
        heights = walk - walk.cummin(1).values.clamp(max=0)  # as if the ground rose where an empty stack is popped
        lowest_since = heights.flip(1).cummin(1).values.flip(1)
        stays = pushes & (lowest_since == heights)
        left = heights[:, -1:]
        places = torch.where(stays, left - heights, length + 1)  # what was popped goes to a column that is cut off
        targets = torch.zeros(batch, length + 2, dtype=torch.int64)
        targets.scatter_(1, places, torch.where(inputs > 2, inputs - 3, inputs))
        targets.scatter_(1, left, 2)
        return Sample(inputs, targets[:, :-1], torch.arange(length + 1) <= left)


class ReverseString(Task):
    """A bit string backwards."""

    name = "reverse_string"
    level: ClassVar[Level] = "context-free"

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return length

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform bits."""
        bits = draw_symbols(2, batch, length, generator)
        return Sample(bits, bits.flip(1))


class ModularArithmeticBrackets(OneSymbol):
    """Value modulo 5 of a bracketed expression of + - *, of any length.

    The benchmark's alphabet has an eleventh symbol, which does not occur.
    """

    name = "modular_arithmetic_brackets"
    level: ClassVar[Level] = "context-free"
    alphabet = (*DIGITS, "+", "-", "*", "(", ")", "_")
    answers = DIGITS
    choices = MODULUS

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: trees of the grammar of ``draw_expressions``."""
        symbols, values = draw_expressions(batch, length, self.alphabet, generator)
        return Sample(symbols, values[:, None])


class SolveEquation(OneSymbol):
    """A bracketed expression of + and - in which one digit is x, then = and its value: the digit.

    Without multiplication x counts once, plus or minus: exactly one digit solves it. Lengths below 3, the shortest
    equation, are taken as 3.
    """

    name = "solve_equation"
    level: ClassVar[Level] = "context-free"
    alphabet = (*DIGITS, "+", "-", "(", ")", "x", "=")
    answers = DIGITS
    choices = MODULUS

    def input_length(self, length: int) -> int:
        """As in ``Task``."""
        return max(3, length)

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: any digit of the expression is the unknown, equally likely."""
        symbols, values = draw_expressions(batch, length - 2, self.alphabet, generator)
        unknown = torch.rand(symbols.shape, generator=generator).masked_fill(symbols >= MODULUS, -1.0)
        place = unknown.argmax(1, keepdim=True)
        solution = symbols.gather(1, place)
        left = symbols.scatter(1, place, self.alphabet.index("x"))
        equals = torch.full((batch, 1), self.alphabet.index("="))
        return Sample(torch.cat((left, equals, values[:, None]), 1), solution)
