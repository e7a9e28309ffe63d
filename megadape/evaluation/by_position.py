"""Loss by position: how well a token is predicted after so many others.

One pass over sequences of one length gives the loss at every position; positions are averaged over stretches that grow
with them, so that a curve on a logarithmic axis has points evenly spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import fsum

import numpy as np
import torch

from megadape.evaluation.pieces import Piece, TextPiece, batches, digest_arrays
from megadape.evaluation.results import PositionLosses
from megadape.evaluation.sets import EvaluationText, tokens_wanted
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.store import Measured
from megadape.evaluation.windows import Windows, plan_windows
from megadape.model import GPT


def position_edges(length: int, per_doubling: int) -> tuple[int, ...]:
    """Where stretches of positions begin, and the end of the last: 0, floor(2^(i/n)) for i = 0, 1, .., length.

    Computed in integers, so that edges are the same on every machine.

    Args:
        length: positions.
        per_doubling: n; small positions have fewer stretches, none is empty.
    """
    edges, power = [0], 0
    while (edge := integer_root(1 << power, per_doubling)) < length:
        if edge > edges[-1]:
            edges.append(edge)
        power += 1
    return (*edges, length)


def integer_root(number: int, degree: int) -> int:
    """The largest integer whose power of that degree is at most a number (at least 1)."""
    low, high = 1, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low


@dataclass(frozen=True, eq=False)
class PositionPiece(TextPiece):
    """A value for each stretch of positions: the sum of its losses in nats, over the sequences."""

    edges: tuple[int, ...]

    @cached_property
    def digest(self) -> str:
        """Of tokens and stretches."""
        return digest_arrays("losses by position 1", np.array(self.edges), self.tokens())

    def measure(self, model: GPT, device: torch.device) -> list[float]:
        """See ``Piece``."""
        stretches = self.losses(model, device).split([last - first for first, last in pairwise(self.edges)], dim=1)
        return [stretch.sum().item() for stretch in stretches]


@dataclass(frozen=True, eq=False)
class PositionPlan:
    """What is fed, and how positions are divided."""

    text: EvaluationText
    windows: Windows
    edges: tuple[int, ...]
    batch_tokens: int

    def series(self) -> list[list[Piece]]:
        """All pieces: they are of one length."""
        every = batches(self.windows, self.batch_tokens)
        return [[PositionPiece(self.text.stream, self.windows, indices, self.edges) for indices in every]]

    def collect(self, measured: Sequence[Sequence[Measured]]) -> PositionLosses:
        """The results, from what the pieces gave."""
        count = len(self.windows.ends)
        sums = [fsum(values) for values in zip(*(piece.values for piece in measured[0]), strict=True)]
        widths = [last - first for first, last in pairwise(self.edges)]
        means = tuple(total / (width * count) for total, width in zip(sums, widths, strict=True))
        return PositionLosses(self.windows.length, self.edges, means, count)


def plan_positions(text: EvaluationText, settings: EvaluationSettings) -> PositionPlan:
    """Lay sequences into a text.

    Raises:
        EvaluationError: the text is too short for one.
    """
    own = settings.positions
    assert own is not None
    length, most = own.length or max(settings.lengths), own.sequences or settings.sequences
    tokens = min(len(text.stream), tokens_wanted(settings)[1])
    (windows,) = plan_windows("all", tokens, [length], length, most)
    return PositionPlan(text, windows, position_edges(length, own.stretches_per_doubling), settings.batch_tokens)
