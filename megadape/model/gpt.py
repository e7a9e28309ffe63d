"""A GPT: token embedding, pre-norm blocks, final norm, output layer; whole, or the part of it that one rank holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from megadape.attention import Documents
from megadape.attention.call import score_term
from megadape.errors import ConfigurationError
from megadape.model.block import Block, Normalise, drop, small_init
from megadape.model.layout import Layout, make_layout
from megadape.model.part import Part, PositionStreams
from megadape.model.settings import Architecture
from megadape.parallel.cross_entropy import Score, cross_entropy, mean_cross_entropy, score_logits
from megadape.parallel.deal import RowDeal
from megadape.parallel.group import Group
from megadape.parallel.layers import ColumnParallelLinear, LayerNorm, VocabularyParallelEmbedding, enter, own_rows
from megadape.parallel.sharding import WHOLE, Sharding
from megadape.parameters import DeclaredModule, allocate, initialise, normal
from megadape.positions import EmbeddingEncoding, Geometry, Heads, PositionEncoding

PieceLosses = Callable[[Tensor, Tensor, Tensor, Group], Tensor]
"""(hidden [n, hidden], output layer [own vocabulary, hidden], targets [n], group) -> losses [n]."""

LOGIT_ELEMENTS = 1 << 24
"""Logits held at once when no gradient is needed: 64 MiB in float32."""


class GPT(DeclaredModule):
    """A decoder-only language model with any position encoding.

    Parameters have the names of the whole model on every rank, and the rank's part of its values.

    With ``model.documents: separate``, ``loss`` keeps the documents of its sequences apart. What reads a given text as
    a whole (``forward``, ``last_losses``, and with them evaluation) takes it for one document in any case.

    Args:
        architecture: what to build; ``model.vocab_size`` must be given.
        sharding: how this rank holds it.
        part: which layers this rank holds; None: all.
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.
        loss_chunk: tokens whose logits training holds at once; 0: all of them.
        normalise: the layer norm to use.

    Raises:
        ConfigurationError: heads, width or vocabulary do not divide over the tensor-parallel ranks.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        sharding: Sharding = WHOLE,
        part: Part | None = None,
        activation_checkpointing: bool = False,
        loss_chunk: int = 0,
        normalise: Normalise = functional.layer_norm,
    ) -> None:
        super().__init__()
        settings, positions = architecture.model, architecture.positions
        if settings.vocab_size is None:
            raise ConfigurationError("model.vocab_size is not known: give it, or a dataset to take it from")
        self.architecture, self.settings = architecture, settings
        self.sharding, self.activation_checkpointing, self.loss_chunk = sharding, activation_checkpointing, loss_chunk
        self.score_piece: PieceLosses = piece_losses
        self.score_chunk: Score = score_logits
        self.part = part = part or Part(tuple(range(settings.num_layers)))
        self.position_streams = PositionStreams()
        own = sharding.own_part(settings.num_heads, "model.num_heads")
        heads = Heads(settings.num_heads, own.start, own.stop - own.start)
        geometry = Geometry(heads, settings.head_dim, settings.hidden_size, architecture.training_length)
        first = positions.build(geometry)
        self.shared_positions = first if first.shared else None
        width, vocabulary, init = settings.hidden_size, settings.vocab_size, normal(small_init(settings.hidden_size))
        tied = settings.tied_embeddings
        self.embedding = (
            VocabularyParallelEmbedding(vocabulary, width, init, sharding)
            if part.embedding or (part.head and tied)
            else None
        )
        self.blocks = nn.ModuleDict()
        for layer in part.layers:
            encoding = None if first.shared else positions.build(geometry)
            mixer = architecture.mixer.build(heads, with_bias=score_term(first) is not None)
            self.blocks[str(layer)] = Block(settings, encoding, mixer, sharding, normalise)
        self.norm = LayerNorm(width, settings.norm_eps, sharding, normalise) if part.head else None
        self.head = (
            ColumnParallelLinear(width, vocabulary, init, sharding, bias=False) if part.head and not tied else None
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [b, s] -> logits [b, s, vocabulary], the whole of it on every rank."""
        hidden = self.hidden(tokens)
        logits = functional.linear(enter(hidden, self.sharding, self._is_split(hidden, tokens)), self.output_weight())
        return self.sharding.tp.all_gather(logits, -1)

    def hidden(self, tokens: Tensor, documents: Documents | None = None) -> Tensor:
        """Token ids [b, s] -> final hidden states [b, s, hidden], normalised: this rank's rows of them.

        Documents that are given are kept apart: each gives what it would give alone.
        """
        layout = self.lay_out(tokens.shape[1], tokens.device, documents=documents)
        x = self.run(self.embed(tokens, layout), layout, self.part.layers)
        return self.finish(x, layout)

    def find_documents(self, tokens: Tensor) -> Documents | None:
        """The documents of ids [b, s], where the settings keep them apart; None where they join them.

        The token that ends a document belongs to it, and predicts the first one of the next.
        """
        if self.settings.documents == "joined":
            return None
        if self.settings.end_of_document is None:
            raise ConfigurationError(
                "model.documents is separate, but the token that ends a document is not known: give "
                "model.end_of_document, or a dataset to take it from"
            )
        return Documents.ending_with(self.settings.end_of_document, tokens)

    def lay_out(self, length: int, device: torch.device, run: int = 0, documents: Documents | None = None) -> Layout:
        """Positions of a forward pass, one draw for all layers, and how its activations lie.

        Args:
            length: of the whole sequence.
            device: of the activations.
            run: first layer of those that will be run, whose stream is drawn from.
            documents: of the whole sequences, to be kept apart.
        """
        encoding, generator = self.encoding(self.part.layers[0]), self.position_streams.of(run)
        return make_layout(encoding, length, device, self.sharding, generator=generator, documents=documents)

    def embed(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Token ids [b, s] -> activations [b, s, hidden], with the encoding added where it adds to embeddings."""
        assert self.embedding is not None
        context = self.sharding.context
        if context.size > 1:
            tokens = RowDeal(tokens.shape[1], context.size).take(tokens, context.rank, 1)
        x = self.embedding(tokens, layout.split)
        if isinstance(self.shared_positions, EmbeddingEncoding):
            added = self.shared_positions.embed(layout.own.flatten()).unflatten(0, layout.own.shape)
            x = x + own_rows(added, self.sharding, layout.split)
        return drop(x, self.settings.dropout, self.sharding, self.training, layout.split)

    def run(self, x: Tensor, layout: Layout, layers: tuple[int, ...]) -> Tensor:
        """Activations through some of this rank's blocks."""
        for layer in layers:
            block = self.blocks[str(layer)]
            if self.activation_checkpointing and self.training:
                x = cast(Tensor, checkpoint(block, x, layout, self.shared_positions, use_reentrant=False))
            else:
                x = block(x, layout, self.shared_positions)
        return x

    def finish(self, x: Tensor, layout: Layout) -> Tensor:
        """The final norm."""
        assert self.norm is not None
        normalised: Tensor = self.norm(x, layout.split)
        return normalised

    def encoding(self, layer: int) -> PositionEncoding:
        """The position encoding that serves a layer."""
        return cast(Block, self.blocks[str(layer)]).attention.encoding(self.shared_positions)

    def output_weight(self) -> Tensor:
        """[own vocabulary, hidden]."""
        if self.head is not None:
            return self.head.weight
        assert self.embedding is not None
        return self.embedding.weight

    def token_losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of every target, in nats, in float32, the same on every tensor-parallel rank.

        Args:
            hidden: [b, s, hidden], or this rank's rows of it where split.
            targets: [b, s].

        Returns:
            [b, s]. Without gradients, logits are made in pieces, so that long sequences and large vocabularies fit.
        """
        hidden, weight = enter(hidden, self.sharding, self._is_split(hidden, targets)), self.output_weight()
        flat, wanted = hidden.flatten(0, 1), targets.flatten()
        rows = flat.shape[0] if torch.is_grad_enabled() else max(1, LOGIT_ELEMENTS // weight.shape[0])
        losses = [
            self.score_piece(part, weight, goal, self.sharding.tp)
            for part, goal in zip(flat.split(rows), wanted.split(rows), strict=True)
        ]
        return torch.cat(losses).view(targets.shape)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross entropy of predicting each next token: ids [b, s + 1] -> scalar, nats a token.

        Every prediction counts, also that of a document's first token by the end of the one before.
        """
        inputs = tokens[:, :-1]
        return self.mean_loss(self.hidden(inputs, self.find_documents(inputs)), tokens[:, 1:])

    def mean_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The mean of ``token_losses``; while training in chunks, where the settings say so."""
        if not (self.loss_chunk and torch.is_grad_enabled()):
            return self.token_losses(hidden, targets).mean()
        entered = enter(hidden, self.sharding, self._is_split(hidden, targets)).flatten(0, 1)
        weight, wanted, tp = self.output_weight(), targets.flatten(), self.sharding.tp
        return mean_cross_entropy(entered, weight, wanted, tp, self.loss_chunk, self.score_chunk)

    def last_losses(self, tokens: Tensor, count: int) -> Tensor:
        """Cross entropy of the last predictions, on every rank: ids [b, s + 1] -> [b, count]. No gradients."""
        length, context = tokens.shape[1] - 1, self.sharding.context
        hidden, targets = self.hidden(tokens[:, :-1]), tokens[:, 1:]
        if context.size == 1:
            split = self._is_split(hidden, targets)
            hidden = self.sharding.tp.all_gather(hidden, 1) if split else hidden
            return self.token_losses(hidden[:, -count:], targets[:, -count:])
        rows = RowDeal(length, context.size).rows(context.rank).to(tokens.device)
        scored = rows >= length - count
        losses = hidden.new_zeros(len(tokens), count, dtype=torch.promote_types(hidden.dtype, torch.float32))
        places = rows[scored]
        losses[:, places - (length - count)] = self.token_losses(hidden[:, scored], targets[:, places])
        return context.all_reduce(losses)

    def _is_split(self, activations: Tensor, tokens: Tensor) -> bool:
        return activations.shape[1] < tokens.shape[1]


def piece_losses(hidden: Tensor, weight: Tensor, targets: Tensor, group: Group) -> Tensor:
    """Cross entropy of some tokens: [n, hidden], [own vocabulary, hidden], [n] -> [n]."""
    return cross_entropy(at_least_float32(functional.linear(hidden, weight)), targets, group)


def at_least_float32(x: Tensor) -> Tensor:
    """What losses are computed in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def build_gpt(
    architecture: Architecture,
    *,
    seed: int,
    device: torch.device | None = None,
    activation_checkpointing: bool = False,
    loss_chunk: int = 0,
    sharding: Sharding = WHOLE,
    part: Part | None = None,
    normalise: Normalise = functional.layer_norm,
) -> GPT:
    """Build a GPT whose initial values depend on (seed, parameter name) alone."""
    with torch.device("meta"):
        model = GPT(
            architecture,
            sharding=sharding,
            part=part,
            activation_checkpointing=activation_checkpointing,
            loss_chunk=loss_chunk,
            normalise=normalise,
        )
    allocate(model, device or torch.device("cpu"))
    initialise(model, seed)
    return model


def count_parameters(model: nn.Module) -> int:
    """How many numbers a model learns; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
