"""Which tokens are fed and which are scored when a model is evaluated at several lengths.

Three modes (see Press et al., 2022, for why they differ):

- ``fixed_target``: the same final tokens are scored at every length, with ever more context to their left; lengths and
  models
  are compared on the very same predictions.
- ``last_k``: sequences of each length, the last k predictions of each scored (the DAPE paper, k = 256).
- ``all``: sequences of each length, every prediction scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from megadape.errors import EvaluationError


@dataclass(frozen=True)
class Windows:
    """Stretches of a token stream to be fed at one length."""

    length: int
    """Tokens fed."""

    ends: tuple[int, ...]
    """Place in the stream of the last token that each stretch predicts."""

    scored: int
    """How many of the last predictions count."""

    def tokens(self, stream: np.ndarray, index: int) -> np.ndarray:
        """Inputs and targets of one stretch: [length + 1]."""
        end = self.ends[index]
        return stream[end - self.length : end + 1]


Mode = Callable[[int, Sequence[int], int, int], list[Windows]]
"""(tokens in the stream, lengths, k, most stretches) -> windows of each length."""


def fixed_target(tokens: int, lengths: Sequence[int], k: int, most: int) -> list[Windows]:
    """The same targets at every length; targets of different stretches do not overlap."""
    scored = min(k, *lengths)
    longest = max(lengths)
    count = min(most, (tokens - 1 - longest) // scored + 1)
    ends = spread(longest, tokens - 1, count)
    return [Windows(length, ends, scored) for length in lengths]


def last_k(tokens: int, lengths: Sequence[int], k: int, most: int) -> list[Windows]:
    """Sequences of each length, the last k predictions of each."""
    return [
        Windows(length, spread(length, tokens - 1, min(most, (tokens - 1) // length)), min(k, length))
        for length in lengths
    ]


def every(tokens: int, lengths: Sequence[int], k: int, most: int) -> list[Windows]:
    """Sequences of each length, every prediction."""
    return [Windows(w.length, w.ends, w.length) for w in last_k(tokens, lengths, k, most)]


MODES: dict[str, Mode] = {"fixed_target": fixed_target, "last_k": last_k, "all": every}


def plan_windows(mode: str, tokens: int, lengths: Sequence[int], k: int, most: int) -> list[Windows]:
    """The windows of a mode.

    Raises:
        EvaluationError: no such mode, a length below 1, or too few tokens for the longest length.
    """
    if mode not in MODES:
        raise EvaluationError(f"unknown evaluation mode {mode!r}; choose from {', '.join(MODES)}")
    if not lengths or min(lengths) < 1:
        raise EvaluationError(f"evaluation lengths must be at least 1, got {', '.join(map(str, lengths)) or 'none'}")
    if tokens < max(lengths) + 1:
        raise EvaluationError(
            f"the evaluation text has {tokens} tokens, but length {max(lengths)} needs {max(lengths) + 1}: "
            "leave out the longest lengths, or evaluate on more text (--data)"
        )
    return MODES[mode](tokens, sorted(set(lengths)), k, most)


def spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """``count`` places from first to last, evenly spread, both ends taken."""
    if count == 1:
        return (last,)
    return tuple(first + (last - first) * index // (count - 1) for index in range(count))
