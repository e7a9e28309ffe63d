"""Passkey retrieval as pieces of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import fmean

import numpy as np
import torch

from megadape.data import load_tokenizer
from megadape.errors import EvaluationError
from megadape.evaluation.passkey.reading import score_keys
from megadape.evaluation.passkey.texts import Ids, KeyTrial, draw_trials, make_filler
from megadape.evaluation.pieces import Piece, digest_arrays
from megadape.evaluation.results import Passkey, PasskeyPlace
from megadape.evaluation.sets import EvaluationText, TextSource, tokens_wanted
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.store import Measured
from megadape.model import GPT

VALUES = 3
"""Of each trial: right key likeliest, right key written, loss of a token of the right key."""


@dataclass(frozen=True, eq=False)
class PasskeyPiece:
    """Texts of one length whose keys have as many tokens: three values each, see ``VALUES``."""

    length: int
    trials: tuple[tuple[KeyTrial, float], ...]
    """With the depth of the key."""
    filler: Ids

    @property
    def rows(self) -> int:
        """See ``Piece``."""
        return len(self.trials)

    @property
    def shareable(self) -> bool:
        """A text is read by one rank."""
        return False

    @cached_property
    def digest(self) -> str:
        """Of texts and candidates."""
        return digest_arrays("passkey 1", *self.tokens())

    def tokens(self) -> tuple[Ids, Ids]:
        """Texts with the right key [rows, length + 1], candidates [rows, candidates, n]."""
        texts = [trial.lay_out(self.length, depth, self.filler) for trial, depth in self.trials]
        return np.stack(texts), np.stack([trial.keys for trial, _ in self.trials])

    def measure(self, model: GPT, device: torch.device) -> list[float]:
        """See ``Piece``."""
        texts, keys = (torch.from_numpy(part).to(device) for part in self.tokens())
        losses, written = score_keys(model, texts[:, :-1], keys)
        likeliest = (losses[:, :1] < losses[:, 1:]).all(dim=1)
        values = torch.stack([likeliest.double(), written.double(), losses[:, 0] / keys.shape[2]], dim=1)
        return values.flatten().tolist()


@dataclass(frozen=True, eq=False)
class PasskeyPlan:
    """All texts that are read."""

    settings: EvaluationSettings
    lengths: tuple[int, ...]
    trials: tuple[KeyTrial, ...]
    filler: Ids

    def series(self) -> list[list[Piece]]:
        """The pieces of each length."""
        return [list(self._pieces(length)) for length in self.lengths]

    def _pieces(self, length: int) -> Iterator[PasskeyPiece]:
        own = self.settings.passkey
        assert own is not None
        size = max(1, self.settings.batch_tokens // length)
        # keys of as many tokens are read together; collect follows the same order
        for _, group in groupby(self.ordered_trials(), key=lambda trial: trial.keys.shape[1]):
            texts = [(trial, depth) for trial in group for depth in own.depths]
            for start in range(0, len(texts), size):
                yield PasskeyPiece(length, tuple(texts[start : start + size]), self.filler)

    def ordered_trials(self) -> list[KeyTrial]:
        """By tokens of their keys."""
        return sorted(self.trials, key=lambda trial: trial.keys.shape[1])

    def collect(self, measured: Sequence[Sequence[Measured]], training_length: int) -> Passkey:
        """The results, from what the pieces gave."""
        own = self.settings.passkey
        assert own is not None
        places = []
        for length, pieces in zip(self.lengths, measured, strict=True):
            values = np.array([value for piece in pieces for value in piece.values])
            table = values.reshape(len(self.trials), len(own.depths), VALUES)
            for index, depth in enumerate(own.depths):
                likeliest, written, loss = (fmean(column) for column in table[:, index].T.tolist())
                places.append(PasskeyPlace(length, depth, len(self.trials), likeliest, written, loss))
        return Passkey(training_length, own.candidates, tuple(places))


def plan_passkey(source: TextSource, text: EvaluationText, settings: EvaluationSettings) -> PasskeyPlan:
    """Draw the keys, and lay out all texts.

    Args:
        source: whose tokenizer is used.
        text: the filler, where the settings give none.
        settings: lengths, depths, amounts.

    Raises:
        EvaluationError: a length that does not hold the sentences around a key, or too few keys.
    """
    own = settings.passkey
    assert own is not None
    tokenizer = load_tokenizer(source.prefix)
    filler = make_filler(
        own, tokenizer, text.stream[: tokens_wanted(settings)[2]], max(own.lengths or settings.lengths)
    )
    trials = draw_trials(own, tokenizer, filler)
    frame = max(trial.frame for trial in trials)
    wanted = sorted(set(own.lengths or settings.lengths))
    lengths = [length for length in wanted if length >= frame]
    if not lengths or (own.lengths is not None and len(lengths) < len(wanted)):
        raise EvaluationError(
            f"a text with a pass key has at least {frame} tokens, more than length {wanted[0]}: give longer "
            "evaluation.passkey.lengths"
        )
    return PasskeyPlan(settings, tuple(lengths), tuple(trials), filler)
