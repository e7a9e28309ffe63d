"""A bidirectional encoder that reads a string and answers in one pass: placeholders for the answer's symbols follow the
string, and the model says at each of them which symbol stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from megadape.attention import MixerSettings
from megadape.attention.call import score_term
from megadape.model.block import Block, drop, small_init
from megadape.model.layout import Layout, make_layout
from megadape.model.settings import ModelSettings, check_heads
from megadape.parallel.layers import ColumnParallelLinear, LayerNorm, VocabularyParallelEmbedding
from megadape.parallel.sharding import WHOLE
from megadape.parameters import DeclaredModule, allocate, initialise, normal
from megadape.positions import EmbeddingEncoding, Geometry, Heads, PositionEncoding, PositionSettings
from megadape.settings import Settings

EVALUATION_SEED = 0
"""Seeds the positions drawn outside training."""


class EncoderSettings(Settings):
    """The encoder itself, without its position encoding and mixer; the defaults are the paper's."""

    num_layers: int = Field(default=5, ge=1)
    """Transformer blocks."""

    hidden_size: int = Field(default=256, ge=1)
    """Width of the residual stream."""

    num_heads: int = Field(default=8, ge=1)
    """Attention heads; must divide hidden_size."""

    ffn_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the MLP; default 4 x hidden_size."""

    norm: Literal["post", "pre"] = "post"
    """Where the layer norms stand: after each sum, or before each sub-layer (and once more at the end)."""

    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the layer norms."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on the embeddings and on what each sub-layer adds."""

    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on attention probabilities."""

    attention_backend: str = "auto"
    """Attention core by name, or auto: the first that can do what is asked."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> EncoderSettings:
        check_heads(self.hidden_size, self.num_heads)
        return self

    @property
    def blocks(self) -> ModelSettings:
        """What its blocks are built from."""
        return ModelSettings(**self.model_dump(exclude={"norm"}))


@dataclass(frozen=True)
class EncoderArchitecture:
    """Everything that decides which function an encoder computes, given its parameters."""

    encoder: EncoderSettings
    positions: PositionSettings
    mixer: MixerSettings

    symbols: int
    """Kinds of input symbols, without the placeholder."""

    answers: int
    """Kinds of output symbols."""

    training_length: int
    """Longest input trained on, placeholders included."""

    position_range: int | None = None
    """Positions are drawn from so many, for any encoding (Ruoss et al., 2023); None: they are counted."""


class PostNormBlock(Block):
    """``norm(x + attention(x))``, then ``norm(x + mlp(x))``."""

    def forward(self, x: Tensor, layout: Layout, shared: PositionEncoding | None) -> Tensor:
        """Activations [b, s, hidden] -> [b, s, hidden]."""
        split = layout.split
        attended = self.attention(x, layout, shared)
        x = self.attention_norm(x + drop(attended, self.dropout, self.sharding, self.training, split), split)
        return self.mlp_norm(x + drop(self.mlp(x, split), self.dropout, self.sharding, self.training, split), split)


BLOCKS: dict[str, type[Block]] = {"post": PostNormBlock, "pre": Block}
"""``norm`` -> block."""


class Encoder(DeclaredModule):
    """A string in, all symbols of the answer out; every query sees every key.

    Args:
        architecture: what to build.
    """

    def __init__(self, architecture: EncoderArchitecture) -> None:
        super().__init__()
        settings = architecture.encoder
        width, init = settings.hidden_size, normal(small_init(settings.hidden_size))
        heads, blocks = Heads(settings.num_heads), settings.blocks
        geometry = Geometry(heads, blocks.head_dim, width, architecture.training_length, causal=False)
        first = architecture.positions.build(geometry)
        self.architecture = architecture
        self.placeholder = architecture.symbols
        """Id of what stands where the answer will be."""
        self.shared_positions = first if first.shared else None
        self.embedding = VocabularyParallelEmbedding(architecture.symbols + 1, width, init)
        self.blocks = nn.ModuleList(
            BLOCKS[settings.norm](
                blocks,
                None if first.shared else architecture.positions.build(geometry),
                architecture.mixer.build(heads, with_bias=score_term(first) is not None),
                WHOLE,
                functional.layer_norm,
            )
            for _ in range(settings.num_layers)
        )
        self.norm = LayerNorm(width, settings.norm_eps) if settings.norm == "pre" else None
        self.head = ColumnParallelLinear(width, architecture.answers, init)

    def forward(self, symbols: Tensor, outputs: int, generator: torch.Generator | None = None) -> Tensor:
        """Answer.

        Args:
            symbols: [b, n] ids.
            outputs: m, symbols of the answer.
            generator: to draw positions from, where they are drawn; default torch's own.

        Returns:
            Logits [b, m, answers].
        """
        places = symbols.new_full((len(symbols), outputs), self.placeholder)
        tokens = torch.cat((symbols, places), 1)
        layout = self.lay_out(tokens.shape[1], tokens.device, generator)
        x = self.embedding(tokens)
        if isinstance(self.shared_positions, EmbeddingEncoding):
            x = x + self.shared_positions.embed(layout.own)
        x = drop(x, self.architecture.encoder.dropout, WHOLE, self.training, split=False)
        for block in self.blocks:
            x = block(x, layout, self.shared_positions)
        x = x[:, symbols.shape[1] :]
        return self.head(x if self.norm is None else self.norm(x))

    def lay_out(self, length: int, device: torch.device, generator: torch.Generator | None = None) -> Layout:
        """Positions of a forward pass: one draw for all layers; outside training the length alone determines them."""
        span = self.architecture.position_range
        if span is None:
            return make_layout(self.positions, length, device, WHOLE, generator=generator)
        if not self.training:
            generator = torch.Generator().manual_seed(EVALUATION_SEED)
        drawn = torch.randperm(max(span, length), generator=generator)[:length].sort().values.to(device)
        return Layout(drawn, drawn, split=False)

    @property
    def positions(self) -> PositionEncoding:
        """The encoding of the first layer."""
        first = self.blocks[0]
        assert isinstance(first, Block)
        return first.attention.encoding(self.shared_positions)


def build_encoder(architecture: EncoderArchitecture, *, seed: int, device: torch.device | None = None) -> Encoder:
    """Build an encoder whose initial values depend on (seed, parameter name) alone."""
    with torch.device("meta"):
        model = Encoder(architecture)
    allocate(model, device or torch.device("cpu"))
    initialise(model, seed)
    return model
