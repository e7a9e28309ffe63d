"""What a GPT is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megadape.attention import MixerSettings
from megadape.positions import PositionSettings
from megadape.settings import Settings


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise ``ValueError`` unless the heads divide the width."""
    if hidden_size % num_heads:
        raise ValueError(
            f"hidden_size % num_heads must be 0, but {hidden_size} % {num_heads} = {hidden_size % num_heads}"
        )


class ModelSettings(Settings):
    """The transformer itself, without its position encoding and mixer."""

    num_layers: int = Field(ge=1)
    """Transformer blocks."""

    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""

    num_heads: int = Field(ge=1)
    """Attention heads; must divide hidden_size."""

    ffn_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the MLP; default 4 x hidden_size."""

    vocab_size: int | None = Field(default=None, ge=1)
    """Rows of the embedding; default: the dataset's vocabulary, rounded up to a multiple of 64."""

    tied_embeddings: bool = False
    """Whether the output layer is the embedding's transpose."""

    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the layer norms."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the embeddings and on what each sub-layer adds."""

    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on attention probabilities."""

    attention_backend: str = "auto"
    """Attention core by name, or auto: the first that can do what is asked."""

    documents: Literal["joined", "separate"] = "joined"
    """Documents that share a training sequence: joined, the later read the earlier; separate, each is read as if it
    came alone: attention and mixing end at its start, and its positions count from there. The loss counts all tokens
    in both. Evaluation reads each text whole."""

    end_of_document: int | None = Field(default=None, ge=0)
    """With documents: separate, the token that ends a document; default: the dataset's."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> ModelSettings:
        check_heads(self.hidden_size, self.num_heads)
        return self

    @model_validator(mode="after")
    def _ends_are_looked_for(self) -> ModelSettings:
        if self.end_of_document is None:
            return self
        if self.documents == "joined":
            raise ValueError(
                f"end_of_document ({self.end_of_document}) is read where documents are kept apart, but "
                "model.documents is joined: set it to separate, or leave end_of_document out"
            )
        if self.vocab_size is not None and self.end_of_document >= self.vocab_size:
            raise ValueError(
                f"end_of_document must be below vocab_size, but is {self.end_of_document} of {self.vocab_size}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    @property
    def ffn_size(self) -> int:
        """Width of the MLP, resolved."""
        return self.ffn_hidden_size or 4 * self.hidden_size


class Architecture(Settings):
    """Everything that decides which function a GPT computes, given its parameters; kept in every checkpoint."""

    model: ModelSettings
    """The transformer."""

    positions: PositionSettings
    """Its position encoding."""

    mixer: MixerSettings
    """What corrects its attention scores, if anything."""

    training_length: int = Field(ge=1)
    """Length trained at: encodings that stretch or draw positions need it."""
