"""One reading of a text scores all keys that could follow it.

Candidates share all but their own tokens. Layer by layer, the text is read with the right key; then the rows of each
other key take the place of the right one's among keys and values, and attend to what stands before them. That is the
function that the model computes, for the price of a few rows a candidate, and nothing is kept from layer to layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from megadape.attention.call import Attention, score_term
from megadape.model import GPT
from megadape.model.block import Block
from megadape.model.gpt import at_least_float32
from megadape.model.layout import Layout


@torch.no_grad()
def score_keys(model: GPT, text: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """How likely every candidate is after a text, and whether greedy decoding writes the right one.

    Greedy decoding writes the key exactly where each token of the key is the likeliest after the text and the tokens
    before it: the first that is not would be written wrongly, and until then decoding has written the key itself. So
    the one reading with the right key tells. (An encoding that stretches with the text is stretched for its full length
    throughout.)

    Args:
        model: whole, in evaluation mode.
        text: [b, s] tokens, the right key at the end but for its last token.
        keys: [b, c, n] tokens of the candidates, the right one first.

    Returns:
        Losses of the candidates, the sum over their tokens in nats: [b, c], float64; and [b] booleans.
    """
    start = text.shape[1] + 1 - keys.shape[2]
    layout = model.lay_out(text.shape[1], text.device)
    tail = replace(layout, own=layout.own[start:])
    x = model.embed(text, layout)
    others = [model.embed(key[:, :-1], tail) for key in keys[:, 1:].unbind(1)] if keys.shape[2] > 1 else []
    for layer in model.part.layers:
        x, others = _run_block(model, cast(Block, model.blocks[str(layer)]), x, others, layout, tail)
    hidden = model.finish(x[:, start - 1 :], layout)
    # keys of one token differ in what follows the question, and in no row
    ends = [model.finish(other, tail) for other in others] or [hidden[:, 1:]] * (keys.shape[1] - 1)
    losses = [
        model.token_losses(torch.cat([hidden[:, :1], end], dim=1), key).double().sum(dim=1)
        for end, key in zip([hidden[:, 1:], *ends], keys.unbind(1), strict=True)
    ]
    likeliest = at_least_float32(functional.linear(hidden, model.output_weight())).argmax(dim=-1)
    return torch.stack(losses, dim=1), (likeliest == keys[:, 0]).all(dim=1)


def _run_block(
    model: GPT, block: Block, x: Tensor, others: list[Tensor], layout: Layout, tail: Layout
) -> tuple[Tensor, list[Tensor]]:
    """Activations of the whole text [b, s, hidden] and of the ends that could follow it instead [b, n - 1, hidden]."""
    attention, positions = block.attention, layout.positions
    encoding = attention.encoding(model.shared_positions)
    backend, term = attention.settings.attention_backend, score_term(encoding)

    def finish(x: Tensor, q: Tensor, rows: slice) -> Tensor:
        call = Attention(q, k, v, encoding, attention.mixer, positions, backend=backend)
        attended = call.run(q, k, v, rows, term, attention.mixer, backend)
        x = x + attention.output(attended.transpose(1, 2).flatten(2), False)
        return x + block.mlp(block.mlp_norm(x, False), False)

    q, k, v = attention.project(block.attention_norm(x, False), layout, encoding)
    x = finish(x, q, slice(0, x.shape[1]))
    ends = []
    for other in others:
        rows = slice(layout.own.shape[0] - other.shape[1], layout.own.shape[0])
        q, k[:, :, rows], v[:, :, rows] = attention.project(block.attention_norm(other, False), tail, encoding)
        ends.append(finish(other, q, rows))
    return x, ends
