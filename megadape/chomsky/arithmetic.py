"""Context-sensitive tasks on binary numbers.

The numbers have hundreds of bits, and Python's integers are exact and fast: packed into bytes and back, a sample takes
about a microsecond.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import isqrt
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from megadape.chomsky.context_free import END
from megadape.chomsky.task import BITS, Level, Sample, Task, draw_symbols


class BinaryOperation(Task):
    """Two binary numbers with an operator between them, lowest bit first: the result, lowest bit first.

    The result has no leading zeros (zero is one 0); an end token follows, then padding. Lengths below 3, the shortest
    that has two numbers, are taken as 3.
    """

    level: ClassVar[Level] = "context-sensitive"
    answers = (*BITS, END)

    def input_length(self, length: int) -> int:
        """As in ``Task``."""
        return max(3, length)

    @abstractmethod
    def apply(self, first: int, second: int) -> int:
        """The operation."""

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: the operator stands anywhere but at the ends, all bits are uniform."""
        bits = draw_symbols(2, batch, length, generator)
        place = 1 + torch.randint(length - 2, (batch, 1), generator=generator)
        pairs = zip(to_integers(bits), place[:, 0].tolist(), strict=True)
        results = [self.apply(both & ((1 << cut) - 1), both >> (cut + 1)) for both, cut in pairs]
        width = self.output_length(length)
        end = torch.tensor([max(1, result.bit_length()) for result in results], dtype=torch.int64)[:, None]
        targets = to_bits(results, width).scatter(1, end, self.answers.index(END))
        return Sample(bits.scatter(1, place, 2), targets, torch.arange(width) <= end)


class BinaryAddition(BinaryOperation):
    """Sum of two binary numbers."""

    name = "binary_addition"
    alphabet = (*BITS, "+")

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return length + 1

    def apply(self, first: int, second: int) -> int:
        """As in ``BinaryOperation``."""
        return first + second


class BinaryMultiplication(BinaryOperation):
    """Product of two binary numbers."""

    name = "binary_multiplication"
    alphabet = (*BITS, "*")

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return length

    def apply(self, first: int, second: int) -> int:
        """As in ``BinaryOperation``."""
        return first * second


class ComputeSqrt(Task):
    """Whole part of the square root of a binary number, highest bit first, in half as many bits (rounded up)."""

    name = "compute_sqrt"
    level: ClassVar[Level] = "context-sensitive"

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return (length + 1) // 2

    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As in ``Task``: uniform bits."""
        bits = draw_symbols(2, batch, length, generator)
        roots = [isqrt(number) for number in to_integers(bits.flip(1))]
        return Sample(bits, to_bits(roots, self.output_length(length)).flip(1))


def to_integers(bits: Tensor) -> list[int]:
    """[b, n] bits, lowest first -> b integers."""
    packed = np.packbits(bits.numpy().astype(np.uint8), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def to_bits(numbers: Sequence[int], width: int) -> Tensor:
    """b integers below 2^width -> [b, width] bits, lowest first."""
    size = (width + 7) // 8
    packed = np.frombuffer(b"".join(number.to_bytes(size, "little") for number in numbers), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(len(numbers), size), axis=1, count=width, bitorder="little")
    return torch.from_numpy(bits.astype(np.int64))
