"""Random bracketed expressions of an exact length, and their values, for a whole batch at once.

    expression(1) = digit        expression(2) = - digit
    expression(3) = ( digit )    expression(4) = ( - digit )
    expression(n) = ( expression(l) operator expression(n - 3 - l) ),    l uniform in 1 .. n - 4

The trees of all samples grow together, one level a round, as spans of one long text; values come back up the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megadape.chomsky.regular import MODULUS

LONGEST_LEAF = 4
"""Longest expression with one digit."""


def draw_expressions(
    batch: int, length: int, alphabet: Sequence[str], generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw expressions.

    Args:
        batch: how many.
        length: symbols of each.
        alphabet: the digits first; its operators stand side by side and are drawn evenly.
        generator: to draw from.

    Returns:
        symbols [b, n] and values [b], 0 .. 4.
    """
    operators = [symbol for symbol in "+-*" if symbol in alphabet]
    first, opening, closing = (alphabet.index(symbol) for symbol in "+()")
    text = torch.empty(batch * length, dtype=torch.int64)
    starts, lengths = torch.arange(batch) * length, torch.full((batch,), length)
    rounds: list[tuple[Tensor, Tensor, Tensor]] = []
    while starts.numel():
        splits = lengths > LONGEST_LEAF
        values = torch.empty_like(starts)
        values[~splits] = _write_leaves(text, starts[~splits], lengths[~splits], alphabet, generator)
        start, size = starts[splits], lengths[splits]
        left = 1 + (torch.rand(len(start), generator=generator) * (size - LONGEST_LEAF)).long()
        operator = torch.randint(len(operators), (len(start),), generator=generator)
        text[start], text[start + size - 1], text[start + 1 + left] = opening, closing, first + operator
        rounds.append((splits, values, operator))
        starts, lengths = torch.cat((start + 1, start + 2 + left)), torch.cat((left, size - 3 - left))
    below = starts
    for splits, values, operator in reversed(rounds):
        values[splits] = _apply(operator, *below.chunk(2)) if len(below) else below
        below = values
    return text.view(batch, length), below


def _write_leaves(
    text: Tensor, starts: Tensor, lengths: Tensor, alphabet: Sequence[str], generator: torch.Generator | None
) -> Tensor:
    """Write d, -d, (d) or (-d), by length, into the text; their values."""
    digits = torch.randint(MODULUS, starts.shape, generator=generator)
    negative, bracketed = lengths % 2 == 0, lengths > 2
    text[starts + bracketed.long() + negative.long()] = digits
    text[(starts + bracketed.long())[negative]] = alphabet.index("-")
    text[starts[bracketed]] = alphabet.index("(")
    text[(starts + lengths - 1)[bracketed]] = alphabet.index(")")
    return torch.where(negative, -digits, digits) % MODULUS


def _apply(operator: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """+, - or *, by number."""
    results = torch.stack((left + right, left - right, left * right)) % MODULUS
    return results.gather(0, operator[None])[0]
