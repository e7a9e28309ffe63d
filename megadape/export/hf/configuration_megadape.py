"""What a megadape model is made of, as transformers reads it from config.json."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class MegadapeConfig(PretrainedConfig):
    """A pre-norm GPT with any position encoding and, on request, DAPE's mixing of heads (arXiv 2405.14722).

    Args:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        num_hidden_layers: blocks.
        num_attention_heads: heads; divide hidden_size.
        intermediate_size: width of the MLP; default 4 x hidden_size.
        layer_norm_eps: epsilon of the layer norms.
        dropout: on the embeddings and on what each sub-layer adds, in training.
        attention_dropout: on attention probabilities, in training.
        training_length: tokens of a training sequence; encodings that stretch or draw positions need it.
        max_position_embeddings: how long tools may take texts to be. No encoding has a limit of its own.
        positions: the position encoding: ``kind``, and its settings.
        mixer: what corrects attention scores: ``kind``, and its settings.
        use_cache: whether keys and values are kept for the next call.
        kwargs: what every configuration knows.
    """

    model_type = "megadape"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012 - transformers' own form

    def __init__(
        self,
        vocab_size: int = 50304,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int | None = None,
        layer_norm_eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        training_length: int = 512,
        max_position_embeddings: int = 1 << 20,
        positions: dict[str, Any] | None = None,
        mixer: dict[str, Any] | None = None,
        use_cache: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = 4 * hidden_size if intermediate_size is None else intermediate_size
        self.layer_norm_eps = layer_norm_eps
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.training_length = training_length
        self.max_position_embeddings = max_position_embeddings
        self.positions = {"kind": "none"} if positions is None else positions
        self.mixer = {"kind": "none"} if mixer is None else mixer
        self.use_cache = use_cache
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
