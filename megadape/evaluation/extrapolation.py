"""Perplexity at lengths past the training length."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import exp, inf, log
from pathlib import Path

import numpy as np
import torch

from megadape.evaluation.output import write_table, write_whole
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.windows import Windows, plan_windows
from megadape.model import GPT


@dataclass(frozen=True)
class LengthResult:
    """What was measured at one length."""

    length: int
    loss: float
    """Mean over the scored tokens, nats."""
    perplexity: float
    bits_per_byte: float
    tokens: int
    """Scored."""
    sequences: int
    seconds: float
    sequence_losses: tuple[float, ...]
    """Mean loss of each sequence, in the order of the text: what paired statistics need."""


@dataclass(frozen=True)
class Extrapolation:
    """A model's results at all lengths."""

    mode: str
    training_length: int
    results: tuple[LengthResult, ...]

    def perplexity(self) -> dict[int, float]:
        """Length -> perplexity."""
        return {result.length: result.perplexity for result in self.results}

    def bits_per_byte(self) -> dict[int, float]:
        """Length -> bits a byte of the scored text."""
        return {result.length: result.bits_per_byte for result in self.results}


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


def write_results(results: Extrapolation, folder: Path, name: str = "extrapolation") -> None:
    """Write NAME.json (everything) and NAME.csv (one row a length) into a folder."""
    write_whole(folder / f"{name}.json", json.dumps(asdict(results), indent=1))
    columns = ["length", "perplexity", "bits_per_byte", "loss", "tokens", "sequences", "seconds"]
    write_table(folder / f"{name}.csv", columns, [[getattr(row, name) for name in columns] for row in results.results])
