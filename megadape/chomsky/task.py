"""What a task of the Chomsky hierarchy must be able to do (Delétang et al., 2022, arXiv 2207.02098).

A task draws input strings of a given length and says what a solver answers. Symbols are ids into the task's alphabets.
A length that a task does not have is taken as the nearest that it has (``input_length``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from megadape.settings import Settings

Level = Literal["regular", "context-free", "context-sensitive"]
"""R, DCF and CS of the paper's table."""

BITS = ("0", "1")


class TaskOptions(Settings):
    """Where the published benchmark does otherwise than the definition of a task."""

    odds_first: Literal["definition", "benchmark"] = "definition"
    """Order of odds_first: the symbols at positions 1, 3, 5, .. first, as defined, or those at 2, 4, 6, .. first, as
    the benchmark's code has it."""


class Sample(NamedTuple):
    """Strings and their answers."""

    inputs: Tensor
    """[b, n] ids into the task's ``alphabet``."""

    targets: Tensor
    """[b, m] ids into ``answers``."""

    mask: Tensor | None = None
    """[b, m] booleans, the positions that are scored: all but the padding after an end token; None: all."""


class Task(ABC):
    """One task; subclasses give its facts."""

    name: ClassVar[str]
    level: ClassVar[Level]

    alphabet: ClassVar[tuple[str, ...]] = BITS
    """Input symbols."""

    answers: ClassVar[tuple[str, ...]] = BITS
    """Output symbols."""

    choices: ClassVar[int] = 2
    """Output symbols that carry the answer, between which a guess is made: the end token is none."""

    def __init__(self, options: TaskOptions | None = None) -> None:
        self.options = options or TaskOptions()

    @property
    def chance(self) -> float:
        """Accuracy of guessing each symbol evenly, as the papers give it: 1/2 or 1/5."""
        return 1 / self.choices

    def input_length(self, length: int) -> int:
        """Symbols of the input where ``length`` are asked for."""
        return length

    @abstractmethod
    def output_length(self, length: int) -> int:
        """Symbols of the output for an input of a length that the task has."""

    @abstractmethod
    def draw(self, batch: int, length: int, generator: torch.Generator | None) -> Sample:
        """As ``sample``, for a length that the task has."""

    def sample(self, batch: int, length: int, generator: torch.Generator | None = None) -> Sample:
        """Draw strings and solve them.

        Args:
            batch: how many.
            length: of each; the nearest that the task has is taken.
            generator: to draw from, on the CPU; default torch's own.

        Returns:
            inputs [b, n], targets [b, m], mask [b, m] or None, on the CPU.
        """
        assert batch >= 0
        assert length >= 1
        return self.draw(batch, self.input_length(length), generator)

    def total_length(self, length: int) -> int:
        """Input and output symbols together, where ``length`` is asked for."""
        inputs = self.input_length(length)
        return inputs + self.output_length(inputs)


class OneSymbol(Task):
    """A task whose answer is one symbol."""

    def output_length(self, length: int) -> int:
        """As in ``Task``."""
        return 1


def draw_symbols(count: int, batch: int, length: int, generator: torch.Generator | None) -> Tensor:
    """[b, n] ids, each of ``count`` equally likely."""
    return torch.randint(count, (batch, length), generator=generator)
