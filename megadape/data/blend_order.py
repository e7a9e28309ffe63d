"""The order of a blend: which dataset gives the s-th sample.

Megatron's rule: sample s = 0, 1, ... comes from the dataset that is furthest behind its share, the one with the largest
w_i max(s, 1) - c_i, where c_i samples have been drawn of it so far; of equals the first. All in float64, so that ties
and rounding fall as they fall there.

Each sample depends on all before it, so a loop would do one at a time. But the rule soon forgets where it came from:
two states that differ meet again. So the samples are cut into blocks, and all blocks are walked at once, one step of
numpy after the other, from states that are guessed and then walked up to each block. A block is right if it begins
where the block before ended, and that one is right; the first begins with nothing drawn. Blocks that do not are walked
again from where the block before ended, until all fit: the result is exact, however wrong the guess, which costs time
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Choices = npt.NDArray[np.unsignedinteger]

_STRIPE = 256
"""Steps that are put into order at once."""


def block_length(samples: int) -> int:
    """Samples of a block: about as many as there are blocks, within limits."""
    return 1 << min(max(samples.bit_length() // 2, 6), 12)


def normalise(weights: Sequence[float]) -> Floats:
    """Weights that add up to 1, rounded as Megatron rounds them."""
    given = np.array(weights, np.float64)
    shares: Floats = given / np.sum(given)
    return shares


def greedy_order(weights: Floats, samples: int) -> tuple[Choices, npt.NDArray[np.int64]]:
    """The dataset of every sample, and how many of each were drawn before every block.

    Args:
        weights: [k], of the datasets; they add up to 1.
        samples: how many samples, n.

    Returns:
        [n] numbers of datasets, and [ceil(n / block), k].
    """
    block = block_length(samples)
    first = np.arange(0, samples, block, dtype=np.int64)
    starts = _guess_states(weights, first, block)
    choices = np.empty((len(first), block), _choice_type(len(weights)))
    ends = np.empty_like(starts)
    wrong = np.arange(len(first))
    while len(wrong):
        ends[:, wrong], choices[wrong] = _walk(weights, first[wrong], starts[:, wrong], block)
        wrong = 1 + np.flatnonzero((ends[:, :-1] != starts[:, 1:]).any(axis=0))
        starts[:, wrong] = ends[:, wrong - 1]
    return choices.reshape(-1)[:samples], starts.T.astype(np.int64)


def _guess_states(weights: Floats, first: npt.NDArray[np.int64], block: int) -> Floats:
    """[k, blocks]: what was probably drawn before each block; right for the first."""
    before = np.maximum(first - block // 4, 0)
    due = weights[:, None] * before
    drawn = np.floor(due)
    # what is missing goes to the largest remainders
    missing = before - drawn.sum(axis=0)
    rank = np.argsort(np.argsort(drawn - due, axis=0, kind="stable"), axis=0)
    drawn += rank < missing
    later = slice(1, None)
    drawn[:, later], _ = _walk(weights, before[later], drawn[:, later], block // 4)
    return drawn


def _walk(weights: Floats, first: npt.NDArray[np.int64], drawn: Floats, steps: int) -> tuple[Floats, Choices]:
    """All blocks side by side.

    Args:
        weights: [k].
        first: [blocks], number of each block's first sample.
        drawn: [k, blocks], drawn before it.
        steps: samples of each block.

    Returns:
        [k, blocks], drawn after it, and [blocks, steps], the datasets chosen.
    """
    drawn, position = drawn.copy(), first.astype(np.float64)
    choices = np.empty((len(first), steps), _choice_type(len(weights)))
    stripe = np.empty((min(steps, _STRIPE), len(first)), choices.dtype)
    scratch = np.empty((2, len(first)))
    for begin in range(0, steps, len(stripe)):
        part = stripe[: steps - begin]
        for chosen in part:
            _choose(weights, np.maximum(position, 1.0), drawn, chosen, scratch)
            for dataset, count in enumerate(drawn):
                count += chosen == dataset
            position += 1.0
        choices[:, begin : begin + len(part)] = part.T
    return drawn, choices


def _choose(weights: Floats, position: Floats, drawn: Floats, chosen: Choices, scratch: Floats) -> None:
    """The dataset that is furthest behind, written to ``chosen`` [blocks]; of equals the first."""
    furthest, behind = scratch
    np.multiply(weights[0], position, out=furthest)
    furthest -= drawn[0]
    chosen[:] = 0
    for dataset in range(1, len(weights)):
        np.multiply(weights[dataset], position, out=behind)
        behind -= drawn[dataset]
        chosen[behind > furthest] = dataset
        np.maximum(furthest, behind, out=furthest)


def _choice_type(datasets: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if datasets <= 1 << 8 else np.uint16
