"""A GPT: token embedding, pre-norm blocks, final norm, output layer."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from megadape.errors import ConfigurationError
from megadape.model.block import Block, score_term, small_init
from megadape.model.layers import Embedding, LayerNorm, Linear
from megadape.model.settings import Architecture
from megadape.parameters import DeclaredModule, initialise, normal
from megadape.positions import EmbeddingEncoding, Geometry, Heads, PositionEncoding

LOGIT_ELEMENTS = 1 << 24
"""Logits held at once when no gradient is needed: 64 MiB in float32."""


class GPT(DeclaredModule):
    """A decoder-only language model with any position encoding.

    Args:
        architecture: what to build; ``model.vocab_size`` must be given.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(self, architecture: Architecture, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        settings, positions = architecture.model, architecture.positions
        if settings.vocab_size is None:
            raise ConfigurationError("model.vocab_size is not known: give it, or a dataset to take it from")
        self.architecture = architecture
        self.settings = settings
        self.activation_checkpointing = activation_checkpointing
        geometry = Geometry(
            Heads(settings.num_heads), settings.head_dim, settings.hidden_size, architecture.training_length
        )
        first = positions.build(geometry)
        self.shared_positions = first if first.shared else None
        init = normal(small_init(settings.hidden_size))
        self.embedding = Embedding(settings.vocab_size, settings.hidden_size, init)
        self.blocks = nn.ModuleList()
        for index in range(settings.num_layers):
            own = None if first.shared else first if index == 0 else positions.build(geometry)
            mixing = architecture.mixer.build(geometry.heads, with_bias=score_term(first) is not None)
            self.blocks.append(Block(settings, own, mixing))
        self.norm = LayerNorm(settings.hidden_size, settings.norm_eps)
        self.head = (
            None if settings.tied_embeddings else Linear(settings.hidden_size, settings.vocab_size, init, bias=False)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> logits [b, s, vocabulary]."""
        return self.logits(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> final hidden states [b, s, hidden], normalised."""
        positions = self.draw_positions(tokens)
        x = self.embed(tokens, positions)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = cast(Tensor, checkpoint(block, x, positions, self.shared_positions, use_reentrant=False))
            else:
                x = block(x, positions, self.shared_positions)
        return self.norm(x)

    def draw_positions(self, tokens: Tensor) -> Tensor:
        """Positions of a batch of sequences [b, s]: [s], one draw for all layers."""
        return self.encoding(0).positions(tokens.shape[1], tokens.device)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Token ids [b, s] -> [b, s, hidden], with the encoding added where it is one that adds to embeddings."""
        x = self.embedding(tokens)
        if isinstance(self.shared_positions, EmbeddingEncoding):
            x = x + self.shared_positions.embed(positions)
        return functional.dropout(x, self.settings.dropout, self.training)

    def encoding(self, layer: int) -> PositionEncoding:
        """The position encoding that serves a layer."""
        return cast(Block, self.blocks[layer]).attention.encoding(self.shared_positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden] -> logits [..., vocabulary]."""
        return functional.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)

    def token_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of every target, in nats, in float32.

        Args:
            hidden: [b, s, hidden].
            targets: [b, s].

        Returns:
            [b, s]. Without gradients, logits are made in pieces, so that long sequences and large vocabularies fit.
        """
        flat, wanted = hidden.flatten(0, 1), targets.flatten()
        rows = flat.shape[0] if torch.is_grad_enabled() else max(1, LOGIT_ELEMENTS // self.embedding.weight.shape[0])
        losses = [
            functional.cross_entropy(self.logits(part).float(), goal, reduction="none")
            for part, goal in zip(flat.split(rows), wanted.split(rows), strict=True)
        ]
        return torch.cat(losses).view(targets.shape)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross entropy of predicting each next token: ids [b, s + 1] -> scalar, nats a token."""
        return self.token_losses(self.hidden(tokens[:, :-1]), tokens[:, 1:]).mean()


def build_gpt(
    architecture: Architecture,
    *,
    seed: int,
    device: torch.device | None = None,
    activation_checkpointing: bool = False,
) -> GPT:
    """Build a GPT whose initial values depend on (seed, parameter name) alone."""
    with torch.device("meta"):
        model = GPT(architecture, activation_checkpointing=activation_checkpointing)
    model.to_empty(device=device or torch.device("cpu"))
    initialise(model, seed)
    return model


def count_parameters(model: nn.Module) -> int:
    """How many numbers a model learns; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
