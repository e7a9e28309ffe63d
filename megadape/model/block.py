"""One transformer block: pre-norm self-attention and a GELU MLP, each added to the residual stream."""

from __future__ import annotations

from math import sqrt

from torch import Tensor
from torch.nn import functional

from megadape.attention import DapeMixer, dape_attention
from megadape.model.layers import LayerNorm, Linear
from megadape.model.settings import ModelSettings
from megadape.parameters import DeclaredModule, constant, normal
from megadape.positions import ContextualBias, PositionEncoding, RotaryEncoding, ScoreBias


def small_init(hidden: int) -> float:
    """Standard deviation of input projections: sqrt(2 / (5 hidden)) (Nguyen and Salazar, 2019)."""
    return sqrt(2 / (5 * hidden))


def wang_init(layers: int, hidden: int) -> float:
    """Standard deviation of output projections: 2 / (layers sqrt(hidden)) (Wang and Komatsuzaki, 2021)."""
    return 2 / (layers * sqrt(hidden))


class SelfAttention(DeclaredModule):
    """Multi-head self-attention with any position encoding and, on request, a DAPE mixer.

    The fused projection is stored as [3, heads * head_dim, hidden] (query, key, value), so that a range of heads is a
    range of its second axis.
    """

    def __init__(self, settings: ModelSettings, encoding: PositionEncoding | None, mixer: DapeMixer | None) -> None:
        super().__init__()
        hidden = settings.hidden_size
        self.settings = settings
        self.positions = encoding
        self.mixer = mixer
        self.qkv_weight = self.declare("qkv_weight", (3, hidden, hidden), normal(small_init(hidden)))
        self.qkv_bias = self.declare("qkv_bias", (3, hidden), constant(0.0), decay=False)
        self.output = Linear(hidden, hidden, normal(wang_init(settings.num_layers, hidden)))

    def project(self, x: Tensor, positions: Tensor, encoding: PositionEncoding) -> tuple[Tensor, Tensor, Tensor]:
        """[b, s, hidden] -> q, k, v [b, h, s, d], queries and keys turned where the encoding is rotary."""
        batch, length, hidden = x.shape
        qkv = functional.linear(x, self.qkv_weight.reshape(-1, hidden), self.qkv_bias.reshape(-1))
        qkv = qkv.view(batch, length, 3, self.settings.num_heads, self.settings.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if isinstance(encoding, RotaryEncoding):
            q, k = encoding.rotate(q, positions, length), encoding.rotate(k, positions, length)
        return q, k, v

    def forward(self, x: Tensor, positions: Tensor, shared: PositionEncoding | None) -> Tensor:
        """Attend.

        Args:
            x: [b, s, hidden].
            positions: [s].
            shared: the encoding that serves all layers, where there is one; else this layer's own is used.

        Returns:
            [b, s, hidden].
        """
        encoding = self.encoding(shared)
        q, k, v = self.project(x, positions, encoding)
        out = dape_attention(
            q,
            k,
            v,
            bias=score_term(encoding),
            mixer=self.mixer,
            backend=self.settings.attention_backend,
            dropout=self.settings.attention_dropout if self.training else 0.0,
            query_positions=positions,
            key_positions=positions,
        )
        return self.output(out.transpose(1, 2).flatten(2))

    def encoding(self, shared: PositionEncoding | None) -> PositionEncoding:
        """This layer's own encoding, or the one that all layers share."""
        encoding = self.positions if self.positions is not None else shared
        assert encoding is not None
        return encoding


def score_term(encoding: PositionEncoding) -> ScoreBias | ContextualBias | None:
    """The encoding, if it is one that adds to attention scores."""
    return encoding if isinstance(encoding, ScoreBias | ContextualBias) else None


class Mlp(DeclaredModule):
    """hidden -> ffn -> hidden with GELU."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        hidden = settings.hidden_size
        self.input = Linear(hidden, settings.ffn_size, normal(small_init(hidden)))
        self.output = Linear(settings.ffn_size, hidden, normal(wang_init(settings.num_layers, hidden)))

    def forward(self, x: Tensor) -> Tensor:
        """[b, s, hidden] -> [b, s, hidden]."""
        return self.output(functional.gelu(self.input(x)))


class Block(DeclaredModule):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, settings: ModelSettings, encoding: PositionEncoding | None, mixer: DapeMixer | None) -> None:
        super().__init__()
        self.dropout = settings.dropout
        self.attention_norm = LayerNorm(settings.hidden_size, settings.norm_eps)
        self.attention = SelfAttention(settings, encoding, mixer)
        self.mlp_norm = LayerNorm(settings.hidden_size, settings.norm_eps)
        self.mlp = Mlp(settings)

    def forward(self, x: Tensor, positions: Tensor, shared: PositionEncoding | None) -> Tensor:
        """[b, s, hidden], [s] -> [b, s, hidden]."""
        x = x + self._drop(self.attention(self.attention_norm(x), positions, shared))
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x
