"""The sizes that every estimate of a layout reads, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from megadape.attention import DapeMixer
from megadape.attention.dispatch import AUTO, BACKENDS, choose
from megadape.attention.request import make_request
from megadape.model import Architecture
from megadape.parameters import parameter_table
from megadape.positions import (
    ContextualBias,
    EmbeddingEncoding,
    Geometry,
    Heads,
    PositionEncoding,
    RotaryEncoding,
    ScoreBias,
)

if TYPE_CHECKING:
    from megadape.config.run import RunSettings

FLOAT = 4
"""Bytes of float32: the residual stream, norms, logits, softmax."""


@dataclass(frozen=True)
class Shape:
    """One micro-batch on one rank. Numbers of the whole layer, unless the name says own."""

    batch: int
    length: int
    hidden: int
    ffn: int
    heads: int
    vocabulary: int
    tp: int = 1
    split: bool = False
    """Whether residuals, norms and dropout are split along the sequence."""

    product: int = FLOAT
    """Bytes of a number that goes into a matrix product: 2 in bfloat16."""

    rotary: bool = False
    encoding_bias: bool = False
    """Whether the encoding adds to scores by distance or by content."""

    contextual_bytes: int = 0
    """What it keeps of every pair of a head where it reads scores or queries to do so; 0 where it does not."""

    mixer_hidden: int = 0
    """D; 0 without a mixer."""

    mixing: str = "rows"
    head_parameters: int = 0
    """Numbers of encoding and mixer in one layer that belong to heads."""

    common_parameters: int = 0
    """Numbers of a score bias in one layer that belong to no head."""

    learned_positions: bool = False
    """Whether a learned table is added to the embeddings."""

    dropout: bool = False
    attention_dropout: bool = False
    checkpointing: bool = False

    loss_chunk: int = 0
    """Tokens whose logits are held at once; 0: all of them."""

    @property
    def tokens(self) -> int:
        """n = b s."""
        return self.batch * self.length

    @property
    def rows(self) -> int:
        """Of the residual stream on this rank."""
        return self.tokens // self.tp if self.split else self.tokens

    @property
    def exchanges(self) -> bool:
        """Whether DAPE's queries travel to the rank of their rows."""
        return self.mixer_hidden > 0 and self.tp > 1 and self.mixing == "rows"

    @property
    def pairs(self) -> int:
        """Queries x keys that this rank looks at, above the diagonal too, of one head."""
        whole = self.batch * self.length**2
        # two runs of rows, each against the keys up to its last: 1/(2T) of the rows see (2T + 1)/2T of them together
        return whole * (2 * self.tp + 1) // (4 * self.tp**2) if self.exchanges else whole

    @property
    def pair_heads(self) -> int:
        """Heads of which this rank has scores."""
        return self.heads if self.exchanges else self.heads // self.tp


def shape_of(run: RunSettings, architecture: Architecture) -> Shape:
    """The sizes of a run's micro-batch on one of its ranks."""
    model, training, parallel = architecture.model, run.training, run.parallel
    assert model.vocab_size is not None
    encoding, mixer = _one_layer(architecture)
    adds = isinstance(encoding, ScoreBias | ContextualBias)
    modules = [part for part in (encoding if adds else None, mixer) if part is not None]
    sharded = [spec for part in modules for spec in parameter_table(part).values() if spec.shard_axis is not None]
    common = [spec for spec in parameter_table(encoding).values() if spec.shard_axis is None] if adds else []
    return Shape(
        batch=training.micro_batch_size,
        length=training.sequence_length,
        hidden=model.hidden_size,
        ffn=model.ffn_size,
        heads=model.num_heads,
        vocabulary=model.vocab_size,
        tp=parallel.tp,
        split=parallel.sequence_parallel,
        product=FLOAT if training.precision == "fp32" else 2,
        rotary=isinstance(encoding, RotaryEncoding),
        encoding_bias=adds,
        contextual_bytes=pair_bytes(encoding) if isinstance(encoding, ContextualBias) else 0,
        mixer_hidden=0 if mixer is None else mixer.hidden,
        mixing=parallel.mixing,
        head_parameters=sum(prod(spec.shape) for spec in sharded),
        common_parameters=sum(prod(spec.shape) for spec in common),
        learned_positions=isinstance(encoding, EmbeddingEncoding) and any(True for _ in encoding.parameters()),
        dropout=model.dropout > 0,
        attention_dropout=model.attention_dropout > 0,
        checkpointing=training.activation_checkpointing,
        loss_chunk=training.loss_chunk,
    )


def keeps_pairs(run: RunSettings, architecture: Architecture) -> bool:
    """Whether the attention backend that a GPU would take keeps tensors of queries x keys.

    Raises:
        AttentionError: the one that the settings name cannot do what they ask.
    """
    model = architecture.model
    encoding, mixer = _one_layer(architecture)
    if run.parallel.tp > 1 and mixer is not None and run.parallel.mixing == "heads":
        return True
    bias = encoding if isinstance(encoding, ScoreBias | ContextualBias) else None
    q, k, v = torch.zeros(3, 1, model.num_heads, 4, model.head_dim, requires_grad=True).unbind(0)
    request = make_request(q, k, v, bias=bias, mixer=mixer, dropout=model.attention_dropout)
    able = [backend.name for backend in BACKENDS.values() if backend.refuses(request) is None]
    asked = model.attention_backend
    if asked != AUTO and asked not in able:
        choose(request, asked)  # raises, and says what can
    if request.plain and asked == AUTO:
        return False
    chosen = able[0] if asked == AUTO else asked
    return chosen == "reference" or (chosen == "sdpa" and not request.plain)


def pair_bytes(encoding: ContextualBias, length: int = 37) -> int:
    """Bytes that the bias of a contextual encoding keeps of one pair of one head, counted on a short sequence."""
    heads, width = encoding.geometry.heads.local, encoding.geometry.head_dim
    q, k = torch.randn(2, 1, heads, length, width, requires_grad=True).unbind(0)
    scores = torch.randn(1, heads, length, length, requires_grad=True)
    sizes: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.shape == scores.shape and x.untyped_storage().nbytes() >= x.nbytes:
            sizes[x.untyped_storage().data_ptr()] = x.nbytes
        return x

    positions = torch.arange(length)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        bias = encoding.contextual_bias(q, k, scores, positions, positions, 1.0)
    assert bias.shape == scores.shape
    own = scores.untyped_storage().data_ptr()
    return sum(size for address, size in sizes.items() if address != own) // scores.numel()


def _one_layer(architecture: Architecture) -> tuple[PositionEncoding, DapeMixer | None]:
    model = architecture.model
    heads = Heads(model.num_heads)
    geometry = Geometry(heads, model.head_dim, model.hidden_size, architecture.training_length)
    encoding = architecture.positions.build(geometry)
    with_bias = isinstance(encoding, ScoreBias | ContextualBias)
    return encoding, architecture.mixer.build(heads, with_bias=with_bias)
