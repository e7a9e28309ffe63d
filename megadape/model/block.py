"""One transformer block: pre-norm self-attention and a GELU MLP, each added to the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from torch import Tensor
from torch.nn import functional

from megadape.attention import DapeMixer
from megadape.attention.call import Attention
from megadape.attention.exchange import choose_exchange
from megadape.model.layout import Layout, rotate
from megadape.model.settings import ModelSettings
from megadape.parallel.layers import ColumnParallelLinear, LayerNorm, RowParallelLinear, enter
from megadape.parallel.random import own_stream
from megadape.parallel.sharding import Sharding
from megadape.parameters import DeclaredModule, constant, normal
from megadape.positions import PositionEncoding, RotaryEncoding

Normalise = Callable[..., Tensor]
"""Layer norm as a function: (x, shape, weight, bias, eps)."""


def small_init(hidden: int) -> float:
    """Standard deviation of input projections: sqrt(2 / (5 hidden)) (Nguyen and Salazar, 2019)."""
    return sqrt(2 / (5 * hidden))


def wang_init(layers: int, hidden: int) -> float:
    """Standard deviation of output projections: 2 / (layers sqrt(hidden)) (Wang and Komatsuzaki, 2021)."""
    return 2 / (layers * sqrt(hidden))


class SelfAttention(DeclaredModule):
    """Multi-head self-attention with any position encoding and, on request, a DAPE mixer.

    The fused projection is stored as [3, heads * head_dim, hidden] (query, key, value), so that a range of heads is a
    range of its second axis; a tensor-parallel rank holds its own.
    """

    def __init__(
        self,
        settings: ModelSettings,
        encoding: PositionEncoding | None,
        mixer: DapeMixer | None,
        sharding: Sharding,
    ) -> None:
        super().__init__()
        hidden = settings.hidden_size
        own = sharding.own_part(hidden, "model.hidden_size")
        self.settings, self.sharding = settings, sharding
        self.own_heads = settings.num_heads // sharding.tp.size
        self.positions = encoding
        self.mixer = mixer
        self.exchange = choose_exchange(sharding, mixes=mixer is not None)
        init = normal(small_init(hidden))
        self.qkv_weight = self.declare("qkv_weight", (3, hidden, hidden), init, shard_axis=1, own=own)
        self.qkv_bias = self.declare("qkv_bias", (3, hidden), constant(0.0), shard_axis=1, own=own, decay=False)
        self.output = RowParallelLinear(hidden, hidden, normal(wang_init(settings.num_layers, hidden)), sharding)

    def project(self, x: Tensor, layout: Layout, encoding: PositionEncoding) -> tuple[Tensor, Tensor, Tensor]:
        """[b, s, hidden] -> q, k, v [b, own heads, s, d], queries and keys turned where the encoding is rotary."""
        q, k, v = self.project_heads(x, layout.split)
        if isinstance(encoding, RotaryEncoding):
            q, k = rotate(encoding, q, layout), rotate(encoding, k, layout)
        return q, k, v

    def project_heads(self, x: Tensor, split: bool) -> tuple[Tensor, Tensor, Tensor]:
        """[b, s, hidden] -> q, k, v [b, own heads, s, d], not turned."""
        x = enter(x, self.sharding, split)
        batch, rows, hidden = x.shape
        qkv = functional.linear(x, self.qkv_weight.reshape(-1, hidden), self.qkv_bias.reshape(-1))
        qkv = qkv.view(batch, rows, 3, self.own_heads, self.settings.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Tensor, layout: Layout, shared: PositionEncoding | None) -> Tensor:
        """Attend.

        Args:
            x: activations [b, s, hidden].
            layout: of the forward pass.
            shared: the encoding that serves all layers, where there is one; else this layer's own is used.

        Returns:
            Activations [b, s, hidden].
        """
        encoding = self.encoding(shared)
        q, k, v = self.project(x, layout, encoding)
        return self.merge(self.attend(q, k, v, layout, encoding), layout.split)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, encoding: PositionEncoding) -> Tensor:
        """q, k, v [b, own heads, s, d] -> [b, own heads, s, d]."""
        call = Attention(
            q,
            k,
            v,
            encoding,
            self.mixer,
            layout.positions,
            layout.counted,
            backend=self.settings.attention_backend,
            dropout=self.settings.attention_dropout if self.training else 0.0,
            documents=layout.documents,
        )
        return self.exchange(call)

    def merge(self, heads: Tensor, split: bool) -> Tensor:
        """[b, own heads, s, d] -> activations [b, s, hidden]."""
        return self.output(heads.transpose(1, 2).flatten(2), split)

    def encoding(self, shared: PositionEncoding | None) -> PositionEncoding:
        """This layer's own encoding, or the one that all layers share."""
        encoding = self.positions if self.positions is not None else shared
        assert encoding is not None
        return encoding


class Mlp(DeclaredModule):
    """hidden -> ffn -> hidden with GELU."""

    def __init__(self, settings: ModelSettings, sharding: Sharding) -> None:
        super().__init__()
        hidden, wide = settings.hidden_size, settings.ffn_size
        self.input = ColumnParallelLinear(hidden, wide, normal(small_init(hidden)), sharding)
        self.output = RowParallelLinear(wide, hidden, normal(wang_init(settings.num_layers, hidden)), sharding)

    def forward(self, x: Tensor, split: bool) -> Tensor:
        """Activations [b, s, hidden] -> [b, s, hidden]."""
        return self.output(functional.gelu(self.input(x, split)), split)


class Block(DeclaredModule):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``.

    ``before`` and ``after`` are made of whole-tensor operations alone, and can be compiled.
    """

    def __init__(
        self,
        settings: ModelSettings,
        encoding: PositionEncoding | None,
        mixer: DapeMixer | None,
        sharding: Sharding,
        normalise: Normalise,
    ) -> None:
        super().__init__()
        self.dropout, self.sharding = settings.dropout, sharding
        self.attention_norm = LayerNorm(settings.hidden_size, settings.norm_eps, sharding, normalise)
        self.attention = SelfAttention(settings, encoding, mixer, sharding)
        self.mlp_norm = LayerNorm(settings.hidden_size, settings.norm_eps, sharding, normalise)
        self.mlp = Mlp(settings, sharding)

    def forward(self, x: Tensor, layout: Layout, shared: PositionEncoding | None) -> Tensor:
        """Activations [b, s, hidden] -> [b, s, hidden]."""
        attention = self.attention
        heads = attention.attend(*self.before(x, layout, shared), layout, attention.encoding(shared))
        return self.after(x, heads, layout.split)

    def before(self, x: Tensor, layout: Layout, shared: PositionEncoding | None) -> tuple[Tensor, Tensor, Tensor]:
        """What comes before attention: [b, s, hidden] -> q, k, v [b, own heads, s, d]."""
        attention = self.attention
        return attention.project(self.attention_norm(x, layout.split), layout, attention.encoding(shared))

    def after(self, x: Tensor, heads: Tensor, split: bool) -> Tensor:
        """What comes after it: the block's input and attention's output [b, own heads, s, d] -> [b, s, hidden]."""
        x = x + drop(self.attention.merge(heads, split), self.dropout, self.sharding, self.training, split)
        return x + drop(self.mlp(self.mlp_norm(x, split), split), self.dropout, self.sharding, self.training, split)


def drop(x: Tensor, probability: float, sharding: Sharding, training: bool, split: bool) -> Tensor:
    """Dropout on activations: the same on all ranks where they are replicated, each rank its own where split."""
    if not probability or not training:
        return x
    with own_stream(sharding.tp, x.device, active=split):
        return functional.dropout(x, probability)
