"""Perplexity at lengths past the training length.

Whole sequences of each length are fed, no sliding window, and the predictions that the mode names are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, fsum, inf, log

import numpy as np
import torch

from megadape.evaluation.pieces import Piece, Progress, TextPiece, Worker, batches, digest_arrays, measure_all
from megadape.evaluation.results import Extrapolation, LengthResult
from megadape.evaluation.sets import EvaluationText, tokens_wanted
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.store import Measured
from megadape.evaluation.windows import Windows, plan_windows
from megadape.model import GPT
from megadape.parallel.group import ALONE, Group


def evaluate_lengths(
    model: GPT,
    stream: np.ndarray,
    token_bytes: np.ndarray,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    group: Group = ALONE,
    progress: Progress | None = None,
) -> Extrapolation:
    """Feed sequences of every length and score the predictions that the mode names.

    Args:
        model: whole, on ``device``.
        stream: [n] token ids, the evaluation text.
        token_bytes: [vocabulary] bytes of text that each token stands for.
        settings: lengths, mode, amounts.
        device: where the model is.
        group: ranks that share the work; each returns the same results.
        progress: told (tokens fed, tokens to feed) of this rank.

    Raises:
        EvaluationError: the text is too short for the longest length.
    """
    plan = plan_extrapolation(EvaluationText(stream, token_bytes), settings)
    measured = measure_all(plan.series(), Worker(model.eval(), device, group), progress=progress)
    return plan.collect(measured, model.architecture.training_length)


class SequencePiece(TextPiece):
    """A value for each sequence: the sum of its scored losses in nats."""

    @cached_property
    def digest(self) -> str:
        """Of tokens and scored predictions."""
        return digest_arrays("last losses 1", np.array([self.windows.scored]), self.tokens())

    def measure(self, model: GPT, device: torch.device) -> list[float]:
        """See ``Piece``."""
        return self.losses(model, device).sum(dim=1).tolist()


@dataclass(frozen=True, eq=False)
class ExtrapolationPlan:
    """What is fed at each length."""

    mode: str
    text: EvaluationText
    windows: tuple[Windows, ...]
    batch_tokens: int

    def series(self) -> list[list[Piece]]:
        """The pieces of each length."""
        return [
            [SequencePiece(self.text.stream, each, indices) for indices in batches(each, self.batch_tokens)]
            for each in self.windows
        ]

    def collect(self, measured: Sequence[Sequence[Measured]], training_length: int) -> Extrapolation:
        """The results, from what the pieces gave."""
        pairs = zip(self.windows, measured, strict=True)
        return Extrapolation(
            self.mode, training_length, tuple(summarise(each, found, self.text) for each, found in pairs)
        )


def plan_extrapolation(text: EvaluationText, settings: EvaluationSettings) -> ExtrapolationPlan:
    """Lay the windows of all lengths into a text.

    Raises:
        EvaluationError: the text is too short for the longest length.
    """
    tokens = min(len(text.stream), tokens_wanted(settings)[0])
    windows = plan_windows(settings.mode, tokens, settings.lengths, settings.last_k, settings.sequences)
    return ExtrapolationPlan(settings.mode, text, tuple(windows), settings.batch_tokens)


def summarise(windows: Windows, measured: Sequence[Measured], text: EvaluationText) -> LengthResult:
    """Sums of the sequences' losses in nats -> what is reported. Sums are exact, in any order of pieces."""
    sums = [value for piece in measured for value in piece.values]
    assert len(sums) == len(windows.ends)
    scored_bytes = [text.token_bytes[text.stream[end + 1 - windows.scored : end + 1]].sum() for end in windows.ends]
    tokens, text_bytes = len(sums) * windows.scored, int(sum(scored_bytes))
    total = fsum(sums)
    loss = total / tokens
    return LengthResult(
        length=windows.length,
        loss=loss,
        perplexity=exp(loss) if loss < 700 else inf,
        bits_per_byte=total / log(2) / text_bytes if text_bytes else inf,
        tokens=tokens,
        sequences=len(sums),
        seconds=fsum(piece.seconds for piece in measured),
        sequence_losses=tuple(value / windows.scored for value in sums),
    )
