"""Texts that hide a key. Needs no torch.

    filler The pass key is 71432. Remember it. 71432 is the pass key. filler What is the pass key? The pass key is 71432

A text is exactly as long as asked for, in tokens: the filler gives way. Trial t has the same key and the same other
candidates at every length and depth, drawn by SHA-256 from (seed, t), so that they are the same wherever they are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

import numpy as np
import numpy.typing as npt

from megadape.data import Tokenizer
from megadape.errors import EvaluationError
from megadape.evaluation.settings import PasskeySettings

NEEDLE = " The pass key is {key}. Remember it. {key} is the pass key. "
QUESTION = " What is the pass key? The pass key is "
DRAWS = 64
"""Numbers drawn for each candidate before it is said that there are too few."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KeyTrial:
    """A key and those that it is compared with, as tokens."""

    needle: Ids
    """What says the key."""

    question: Ids
    """What asks for it."""

    keys: Ids
    """[candidates, n], the right one first; all of them follow the question."""

    start: int
    """Where in the filler the text begins."""

    @property
    def frame(self) -> int:
        """Tokens that are no filler, without the last of the key, which is not fed."""
        return len(self.needle) + len(self.question) + self.keys.shape[1] - 1

    def lay_out(self, length: int, depth: float, filler: Ids) -> Ids:
        """The text with the right key: [length + 1] tokens, of which the last is not fed.

        Args:
            length: at least ``frame``.
            depth: share of the filler that comes before the key; to the nearest token.
            filler: repeated where it is too short.
        """
        room = length - self.frame
        assert room >= 0
        before = int(depth * room + 0.5)
        around = filler.take(np.arange(self.start, self.start + room), mode="wrap")
        return np.concatenate([around[:before], self.needle, around[before:], self.question, self.keys[0]])


def draw_trials(settings: PasskeySettings, tokenizer: Tokenizer, filler: Ids) -> list[KeyTrial]:
    """The keys of all trials.

    Raises:
        EvaluationError: too few keys have as many tokens as the right one.
    """
    trials = []
    for number in range(settings.trials):
        drawn = draw_numbers(settings.seed, number)
        start = next(drawn) % len(filler) if settings.filler is None else 0
        numbers = (one % 10**settings.digits for one in islice(drawn, DRAWS * settings.candidates))
        names = [f"{one:0{settings.digits}}" for one in dict.fromkeys(numbers)]
        question, keys = encode_answers(tokenizer, names, settings.candidates)
        needle = tokenizer.encode(NEEDLE.format(key=names[0])).astype(np.int64)
        trials.append(KeyTrial(needle, question, keys, start))
    return trials


def encode_answers(tokenizer: Tokenizer, names: Sequence[str], candidates: int) -> tuple[Ids, Ids]:
    """The question's tokens, and [candidates, n] tokens of the keys after it: the first, and others that are as long.

    Question and key are encoded together, as a text has them, and cut where they part from the question alone.
    """
    alone = tokenizer.encode(QUESTION)
    for count in (4 * candidates, len(names)):  # most often the first few will do
        together = tokenizer.encode_batch([QUESTION + name for name in names[:count]])
        cut = min(common_prefix(alone, each) for each in together)
        right, *others = dict.fromkeys(tuple(each[cut:].tolist()) for each in together)
        fitting = [right, *(other for other in others if len(other) == len(right))]
        if len(fitting) >= candidates:
            return alone[:cut].astype(np.int64), np.array(fitting[:candidates], np.int64)
    raise EvaluationError(
        f"of {len(names)} keys that were drawn, only {len(fitting)} have {len(right)} tokens like {names[0]}: lower "
        "evaluation.passkey.candidates, or raise digits"
    )


def common_prefix(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> int:
    """How many tokens two texts begin with alike."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def draw_numbers(seed: int, trial: int) -> Iterator[int]:
    """Numbers below 2^256 that depend on nothing else."""
    place = 0
    while True:
        yield int.from_bytes(sha256(f"passkey {seed} {trial} {place}".encode()).digest())
        place += 1


def make_filler(settings: PasskeySettings, tokenizer: Tokenizer, stream: Ids, longest: int) -> Ids:
    """The tokens between which keys stand: the sentence over and over, or the text of the evaluation set."""
    if settings.filler is None:
        return stream
    count = len(tokenizer.encode(settings.filler + " "))
    if not count:
        raise EvaluationError(f"evaluation.passkey.filler {settings.filler!r} has no tokens: give a sentence")
    return tokenizer.encode((settings.filler + " ") * (longest // count + 1)).astype(np.int64)
