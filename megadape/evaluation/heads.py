"""Look at what each attention head makes of distance, at one query: score, static bias, and DAPE's correction (the
paper's figure 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from megadape.attention import explain
from megadape.attention.call import score_term
from megadape.errors import EvaluationError
from megadape.evaluation.head_profiles import HeadProfile
from megadape.evaluation.restore import restore_model
from megadape.model import GPT
from megadape.model.block import Block
from megadape.model.layout import Layout

__all__ = ["HeadProfile", "head_profiles", "profile_heads", "profile_layers"]

QUERY_LENGTH = 1024
"""Tokens read before a query is looked at."""

TEXTS = 4
"""How many stretches of a text one query each is looked at in."""


def head_profiles(
    run_dir: Path,
    stream: np.ndarray,
    *,
    length: int = QUERY_LENGTH,
    texts: int = TEXTS,
    device: torch.device | None = None,
) -> list[HeadProfile]:
    """The heads of all layers of a run's newest checkpoint, at the last token of each of several stretches of a text.

    Args:
        run_dir: the run's folder.
        stream: [n] token ids of a text.
        length: of a stretch; the whole text where that is shorter.
        texts: stretches, evenly spread over the text; fewer where it is short.
        device: where to compute.

    Raises:
        EvaluationError: the text is empty.
        CheckpointError: there is no such run, or no checkpoint.
    """
    if not len(stream):
        raise EvaluationError(f"the heads of {run_dir} cannot be looked at: the text has no tokens")
    device = device or torch.device("cpu")
    model = restore_model(run_dir, device).model
    length = min(length, len(stream))
    count = min(texts, len(stream) // length)
    starts = np.linspace(0, len(stream) - length, count).astype(int)
    pieces = (torch.from_numpy(stream[start : start + length].astype(np.int64)).to(device) for start in starts)
    return [profile for tokens in pieces for profile in profile_layers(model, tokens)]


def profile_heads(model: GPT, tokens: Tensor, layer: int, query: int | None = None) -> HeadProfile:
    """Look at one query of one layer.

    Args:
        model: in any state; switched to evaluation.
        tokens: [s] token ids, on the model's device.
        layer: which block, from 0.
        query: which position; default the last.
    """
    if not 0 <= layer < len(model.blocks):
        raise EvaluationError(f"layer {layer} does not exist: the model has layers 0 to {len(model.blocks) - 1}")
    return next(iter(profile_layers(model, tokens, query, (layer,))))


@torch.no_grad()
def profile_layers(
    model: GPT, tokens: Tensor, query: int | None = None, layers: Iterable[int] | None = None
) -> list[HeadProfile]:
    """Look at one query of several layers, in one pass; arguments as of ``profile_heads``, default all layers."""
    query = len(tokens) - 1 if query is None else query
    if not 0 <= query < len(tokens):
        raise EvaluationError(f"query {query} is not in the text of {len(tokens)} tokens")
    model.eval()
    batch = tokens[None, : query + 1]
    layout = model.lay_out(query + 1, batch.device)
    wanted = sorted(range(len(model.blocks)) if layers is None else layers)
    inputs = _layer_inputs(model, model.embed(batch, layout), layout, wanted)
    return [_profile(model, x, layout, layer) for layer, x in zip(wanted, inputs, strict=True)]


def _layer_inputs(model: GPT, x: Tensor, layout: Layout, wanted: Iterable[int]) -> Iterator[Tensor]:
    """Activations before each wanted layer."""
    reached = 0
    for layer in wanted:
        x = model.run(x, layout, tuple(range(reached, layer)))
        reached = layer
        yield x


def _profile(model: GPT, x: Tensor, layout: Layout, layer: int) -> HeadProfile:
    """The last query of one layer, whose input is x [1, s, hidden]."""
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
    return HeadProfile(layer, x.shape[1] - 1, *by_distance)
