"""What each attention head makes of distance, at one query: score, static bias, and DAPE's correction (the paper's
figure 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from megadape.attention import explain
from megadape.attention.exchange import score_term
from megadape.errors import EvaluationError
from megadape.model import GPT
from megadape.model.block import Block


@dataclass(frozen=True)
class HeadProfile:
    """What adds up to the attention logits of one query, per head, by distance to the key."""

    layer: int
    query: int
    score: np.ndarray
    """[heads, query + 1], q k / sqrt(d); index 0 is the query's own position."""
    bias: np.ndarray
    """[heads, query + 1], the encoding's bias; zeros where it has none."""
    correction: np.ndarray
    """[heads, query + 1], logits - score - bias: what the mixer adds; zeros without a mixer."""


@torch.no_grad()
def profile_heads(model: GPT, tokens: Tensor, layer: int, query: int | None = None) -> HeadProfile:
    """Look at one query of one layer.

    Args:
        model: in any state; switched to evaluation.
        tokens: [s] token ids, on the model's device.
        layer: which block, from 0.
        query: which position; default the last.
    """
    query = len(tokens) - 1 if query is None else query
    if not 0 <= layer < len(model.blocks):
        raise EvaluationError(f"layer {layer} does not exist: the model has layers 0 to {len(model.blocks) - 1}")
    if not 0 <= query < len(tokens):
        raise EvaluationError(f"query {query} is not in the text of {len(tokens)} tokens")
    model.eval()
    batch = tokens[None, : query + 1]
    layout = model.lay_out(query + 1, batch.device)
    x = model.run(model.embed(batch, layout), layout, tuple(range(layer)))
    block = cast(Block, model.blocks[str(layer)])
    attention, encoding, positions = block.attention, model.encoding(layer), layout.positions
    q, k, _ = attention.project(block.attention_norm(x), layout, encoding)
    scores, bias, logits = explain(
        q[:, :, -1:],
        k,
        bias=score_term(encoding),
        mixer=attention.mixer,
        query_positions=positions[-1:],
        key_positions=positions,
    )
    static = torch.zeros_like(scores) if bias is None else bias.expand_as(scores)
    correction = logits - scores - static
    by_distance = [term[0, :, 0].flip(-1).float().cpu().numpy() for term in (scores, static, correction)]
    return HeadProfile(layer, query, *by_distance)
