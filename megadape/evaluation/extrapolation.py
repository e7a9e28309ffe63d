"""Perplexity at lengths past the training length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from math import exp, inf, log

import numpy as np
import torch

from megadape.evaluation.results import Extrapolation, LengthResult
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.windows import Windows, plan_windows
from megadape.model import GPT


def evaluate_lengths(
    model: GPT,
    stream: np.ndarray,
    token_bytes: np.ndarray,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Extrapolation:
    """Feed whole sequences of each length, no sliding window, and score the predictions that the mode names.

    Args:
        model: on ``device``.
        stream: [n] token ids, the evaluation text.
        token_bytes: [vocabulary] bytes of text that each token stands for.
        settings: lengths, mode, amounts.
        device: where the model is.
        progress: told (tokens fed, tokens to feed).

    Raises:
        EvaluationError: the text is too short for the longest length.
    """
    plan = plan_windows(settings.mode, len(stream), settings.lengths, settings.last_k, settings.sequences)
    total, fed, results = sum(w.length * len(w.ends) for w in plan), 0, []
    for windows in plan:
        started = time.perf_counter()
        losses = []
        for batch, scored in score_windows(model, stream, windows, settings.batch_tokens, device):
            losses.append(scored)
            fed += batch * windows.length
            if progress is not None:
                progress(fed, total)
        results.append(summarise(windows, np.concatenate(losses), stream, token_bytes, time.perf_counter() - started))
    return Extrapolation(settings.mode, model.architecture.training_length, tuple(results))


@torch.no_grad()
def score_windows(
    model: GPT, stream: np.ndarray, windows: Windows, batch_tokens: int, device: torch.device
) -> Iterable[tuple[int, np.ndarray]]:
    """Yield (sequences, losses [sequences, scored] in nats) batch by batch, in the order of the windows."""
    model.eval()
    size = max(1, batch_tokens // windows.length)
    for start in range(0, len(windows.ends), size):
        indices = range(start, min(start + size, len(windows.ends)))
        rows = np.stack([windows.tokens(stream, index) for index in indices]).astype(np.int64)
        tokens = torch.from_numpy(rows).to(device)
        losses = model.last_losses(tokens, windows.scored)
        yield len(rows), losses.double().cpu().numpy()


def summarise(
    windows: Windows, losses: np.ndarray, stream: np.ndarray, token_bytes: np.ndarray, seconds: float
) -> LengthResult:
    """Losses [sequences, scored] in nats -> what is reported."""
    targets = np.stack([windows.tokens(stream, index)[-windows.scored :] for index in range(len(windows.ends))])
    text_bytes = int(token_bytes[targets].sum())
    loss = float(losses.mean())
    return LengthResult(
        length=windows.length,
        loss=loss,
        perplexity=exp(loss) if loss < 700 else inf,
        bits_per_byte=float(losses.sum()) / log(2) / text_bytes if text_bytes else inf,
        tokens=losses.size,
        sequences=len(losses),
        seconds=seconds,
        sequence_losses=tuple(float(value) for value in losses.mean(axis=1)),
    )
