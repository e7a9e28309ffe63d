"""The next token of every text, from the model's logits.

Penalty, temperature, top-k, top-p, in this order; all in float64, and drawn in the order of the ids, so that logits
that differ in their last bits, as in another batch, hardly ever give another token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megadape.errors import EvaluationError
from megadape.generation.settings import GenerationSettings


def choose_tokens(logits: Tensor, settings: GenerationSettings, seen: Tensor | None, draws: Tensor) -> Tensor:
    """One token for each row.

    Args:
        logits: [b, vocabulary]; -inf where a token must not be.
        settings: how.
        seen: [b, vocabulary] booleans, tokens that each text has already; needed for a repetition penalty.
        draws: [b] numbers in [0, 1), float64; not read where the likeliest token is taken.

    Returns:
        [b] ids.

    Raises:
        EvaluationError: logits are NaN.
    """
    if bool(logits.isnan().any()):
        raise EvaluationError("the model's logits are NaN: its training has diverged; use an earlier checkpoint")
    logits = logits.double()
    if settings.repetition_penalty != 1:
        assert seen is not None
        logits = penalise(logits, seen, settings.repetition_penalty)
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    # what is far below the largest becomes -inf at low temperatures, and nothing else does
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / settings.temperature
    probabilities = keep_likely(scaled, settings.top_k, settings.top_p)
    return draw(probabilities, draws)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits of tokens seen made smaller by a factor (larger, below 1), whatever their sign."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_likely(logits: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Probabilities [b, vocabulary], 0 for all but the top_k likeliest tokens, and of these the fewest that reach top_p
    of their sum. They need not sum to 1. Of equal ones the first are kept.
    """
    vocabulary = logits.shape[-1]
    probabilities = logits.softmax(dim=-1)
    if (top_k is None or top_k >= vocabulary) and top_p >= 1:
        return probabilities
    likeliest, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    likeliest = likeliest[:, :top_k]
    before = likeliest.cumsum(dim=-1) - likeliest  # the likeliest is always kept: nothing is before it
    kept = likeliest.masked_fill(before >= top_p * likeliest.sum(dim=-1, keepdim=True), 0.0)
    return torch.zeros_like(probabilities).scatter(-1, ids[:, : kept.shape[1]], kept)


def draw(probabilities: Tensor, draws: Tensor) -> Tensor:
    """The token of each row at a share of its sum: [b, vocabulary] and [b] in [0, 1) -> [b]."""
    sums = probabilities.cumsum(dim=-1)
    total = sums[:, -1]
    places = torch.minimum(draws * total, total.nextafter(torch.zeros_like(total)))  # below the sum, also when rounded
    return torch.searchsorted(sums, places[:, None], right=True)[:, 0]
