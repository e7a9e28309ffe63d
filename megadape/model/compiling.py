"""What surrounds attention, compiled by torch.compile: norms, rotations, biases, GELU, residual sums and the loss are
fused into few passes over memory. Attention itself has kernels of its own and is called as it is.

All blocks share their compiled code, since their parameters are its arguments. It is made for one shape: the first
forward pass takes a while, and so does one of another shape or without gradients.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from megadape.model.block import Block
from megadape.model.gpt import GPT
from megadape.parallel.cross_entropy import score_logits


def compile_model(model: GPT) -> None:
    """Compile the parts of a model that is held whole by one rank, in place; names of parameters stay.

    ``fullgraph``: what cannot be compiled is an error, and not silently left as it is.
    """
    assert model.sharding.tp.size == 1, "collectives are not compiled"
    torch.compiler.reset()  # shapes of an earlier model in this process would count against the limit for this one's
    before: Any = torch.compile(Block.before, fullgraph=True, dynamic=False)
    after: Any = torch.compile(Block.after, fullgraph=True, dynamic=False)
    for block in model.blocks.values():
        assert isinstance(block, Block)
        block.before = partial(before, block)  # type: ignore[method-assign]
        block.after = partial(after, block)  # type: ignore[method-assign]
    model.score_piece = torch.compile(model.score_piece, fullgraph=True, dynamic=False)
    model.score_chunk = torch.compile(score_logits, fullgraph=True, dynamic=False)
