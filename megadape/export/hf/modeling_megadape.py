"""GPTs with data-adaptive positional encoding (DAPE, arXiv 2405.14722), for transformers 5.3 and later.

This file and configuration_megadape.py are all that a model needs, beside torch and transformers. It is written to be
read, and computes what megadape computes; megadape's own kernels are several times faster.

At every query-key pair, with scores S and position bias B of all heads::

    logits = S + B + f([S ; B]),    f(x) = W2 LeakyReLU(W1 x + b1) + b2

Query rows are taken in blocks, so that memory grows with the length and not with its square, with gradients too.
Padding, wherever ``attention_mask`` has zeros, changes nothing: positions count the tokens of each sequence.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional, init
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_megadape import MegadapeConfig

BLOCK_NUMBERS = 1 << 24
"""Numbers that one block of query rows may hold at a time: 64 MiB in float32."""

NEGATIVE_SLOPE = 0.01
"""Of the LeakyReLU."""

CACHE = "cache" if "cache" in {one.name for one in fields(CausalLMOutputWithPast)} else "past_key_values"
"""What this version of transformers calls the cache."""


@dataclass(frozen=True)
class Spots:
    """Where the keys of a call stand; the queries are the last of them. The batch is 1 where all sequences agree."""

    places: Tensor
    """[b, k], positions of the keys, as the encoding laid them out."""

    queries: int

    lengths: Tensor
    """[b], tokens of each sequence, padding left out."""

    real: Tensor | None
    """[b, k], false where a key is padding; None where none is."""

    @property
    def query_places(self) -> Tensor:
        """[b, q]."""
        return self.places[:, -self.queries :]

    @cached_property
    def visible(self) -> Tensor:
        """[b, 1, q, k], the keys that a query sees; itself in any case, so that padding gives numbers."""
        index = torch.arange(self.places.shape[1], device=self.places.device)
        rows = index[-self.queries :, None]
        seen = index <= rows if self.real is None else (index <= rows) & self.real[:, None] | (index == rows)
        return seen.expand(len(self.places), -1, -1)[:, None]

    @cached_property
    def outside(self) -> Tensor | None:
        """[b, 1, 1, k], padding before the first token: there is no key; None where there is none such."""
        return None if self.real is None else (self.real.cumsum(-1) == 0)[:, None, None]

    @cached_property
    def distances(self) -> Tensor:
        """[b, q, k], from the query back to the key; 0 where the query does not see it."""
        return (self.query_places[:, :, None] - self.places[:, None]).clamp(min=0)

    def rows(self, first: int, end: int) -> Spots:
        """The queries first .. end - 1, and the keys up to the last of them."""
        keys = self.places.shape[1] - self.queries + end
        return Spots(
            self.places[:, :keys], end - first, self.lengths, None if self.real is None else self.real[:, :keys]
        )


class Encoding(nn.Module):
    """A position encoding, here the one that does nothing at all; the others override what they do."""

    shared = False
    """Whether one instance serves all layers."""

    adds_bias = False
    """Whether it adds to attention scores."""

    settled = True
    """Whether what it makes of a token is not changed by the tokens that follow, so that keys can be kept."""

    def __init__(self, config: MegadapeConfig) -> None:
        super().__init__()
        self.heads, self.hidden_size = config.num_attention_heads, config.hidden_size
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.training_length = config.training_length

    def lay_out(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """The places of the tokens, [b, s]: by default their positions, once for all layers."""
        return positions

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        """Token embeddings [b, s, hidden], with what the encoding adds."""
        return x

    def turn(self, x: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
        """Queries or keys [b, h, s, d], turned."""
        return x

    def bias(self, q: Tensor, k: Tensor, scores: Tensor, spots: Spots) -> Tensor | None:
        """What is added to scores [b, h, q, k] (float32 at least), in their dtype; the batch may be 1."""
        return None

    def reset(self) -> None:
        """Initial values."""


class NoPosition(Encoding):
    shared = True


class Rope(Encoding):
    """Turns dimensions (m, m + d/2) by place x base^(-2m/d)."""

    shared = True

    def __init__(self, config: MegadapeConfig, base: float = 10000.0) -> None:
        super().__init__(config)
        self.base = base

    def turn(self, x: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
        return turn(x, places, frequencies(self.head_dim, self.base, x.device))


class RandomizedRope(Rope):
    """RoPE at a sorted random subset of a longer range; outside training the length alone decides which."""

    settled = False

    def __init__(self, config: MegadapeConfig, base: float = 10000.0, range_factor: int = 4) -> None:
        super().__init__(config, base)
        self.range_factor = range_factor

    def lay_out(self, positions: Tensor, lengths: Tensor) -> Tensor:
        subsets = {length: self.draw(length) for length in set(lengths.tolist())}
        rows = [subsets[length].to(row.device)[row] for length, row in zip(lengths.tolist(), positions, strict=True)]
        return torch.stack(rows)

    def draw(self, length: int) -> Tensor:
        span = max(length, self.range_factor * self.training_length)
        generator = None if self.training else torch.Generator().manual_seed(0)
        # on the CPU, so that every device draws the same
        return torch.randperm(span, generator=generator, device="cpu")[: max(length, 1)].sort().values


class Yarn(Encoding):
    """RoPE with its slow frequencies slowed by a factor, and a temperature; the factor may follow the length."""

    shared = True

    def __init__(
        self,
        config: MegadapeConfig,
        base: float = 10000.0,
        factor: float | None = None,
        alpha: float = 1.0,
        beta: float = 32.0,
    ) -> None:
        super().__init__(config)
        self.base, self.factor, self.alpha, self.beta = base, factor, alpha, beta
        self.settled = factor is not None

    def turn(self, x: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
        factor = (lengths.double() / self.training_length).clamp(min=1)[:, None]
        factor = factor if self.factor is None else torch.full_like(factor, self.factor)
        plain = frequencies(self.head_dim, self.base, x.device)
        turns = self.training_length * plain / (2 * math.pi)
        keep = ((turns - self.alpha) / (self.beta - self.alpha)).clamp(0, 1)
        slowed = (1 - keep) * plain / factor + keep * plain
        return turn(x, places, slowed[:, None], 0.1 * factor.log()[:, None, None] + 1)


def frequencies(size: int, base: float, device: torch.device) -> Tensor:
    """base^(-2m / size), m = 0 .. size/2 - 1, in float64."""
    return base ** -(torch.arange(0, size, 2, dtype=torch.float64, device=device) / size)


def turn(x: Tensor, places: Tensor, angular: Tensor, magnitude: Tensor | float = 1.0) -> Tensor:
    """x [b, h, s, d] turned by places [b, s] x angular [.., d/2]; angles are float64, products at least float32."""
    angles = (places.double()[:, :, None] * angular)[:, None]
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (angles.cos() * magnitude).to(dtype), (angles.sin() * magnitude).to(dtype)
    first, second = x.to(dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def sine_and_cosine(places: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of place x 10000^(-2m / size): two of [.., size / 2]."""
    angles = places.double()[..., None] * frequencies(size, 10000.0, places.device)
    return angles.sin().to(dtype), angles.cos().to(dtype)


class Sinusoidal(Encoding):
    """Sines in even dimensions and cosines in odd ones, added to the embeddings."""

    shared = True

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return x + torch.stack(sine_and_cosine(places, self.hidden_size, dtype), dim=-1).flatten(-2)


class Learned(Encoding):
    """A vector for each place, added to the embeddings; places beyond the table have its last one."""

    shared = True

    def __init__(self, config: MegadapeConfig, max_positions: int | None = None) -> None:
        super().__init__(config)
        self.table = nn.Parameter(torch.empty(max_positions or self.training_length, self.hidden_size))

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        return x + functional.embedding(places.clamp(max=len(self.table) - 1), self.table)

    def reset(self) -> None:
        init.normal_(self.table, std=0.02)


class DistanceBias(Encoding):
    """Adds what the distance alone decides."""

    adds_bias = True

    def bias(self, q: Tensor, k: Tensor, scores: Tensor, spots: Spots) -> Tensor:
        distances = torch.arange(k.shape[2], device=k.device)
        table = self.at(distances, scores.dtype)
        # index_select: the backward pass of plain indexing sorts the indices first
        return table.index_select(1, spots.distances.flatten()).unflatten(1, spots.distances.shape).transpose(0, 1)

    def at(self, distances: Tensor, dtype: torch.dtype) -> Tensor:
        """[n] distances from 0 on -> [h, n]."""
        raise NotImplementedError


class Alibi(DistanceBias):
    """-slope x distance."""

    shared = True

    def at(self, distances: Tensor, dtype: torch.dtype) -> Tensor:
        power = 1 << (self.heads.bit_length() - 1)
        slopes = [2 ** (-8 * m / power) for m in range(1, power + 1)]
        slopes += [2 ** (-4 * m / power) for m in range(1, 2 * power + 1, 2)][: self.heads - power]
        return -torch.tensor(slopes, dtype=dtype, device=distances.device)[:, None] * distances.to(dtype)


class T5(DistanceBias):
    """A number for each head and bucket: a bucket for each small distance, then logarithmic ones."""

    shared = True

    def __init__(self, config: MegadapeConfig, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__(config)
        self.table = nn.Parameter(torch.empty(num_buckets, self.heads))
        exact, rest = num_buckets // 2, num_buckets - num_buckets // 2
        # the first n with log(n / exact) / log(max_distance / exact) x rest >= m, in integers: no rounding decides
        logarithmic = [
            bisect_left(
                range(max_distance + 1), True, key=lambda n: n**rest * exact**m >= max_distance**m * exact**rest
            )
            for m in range(1, rest)
        ]
        self.boundaries = [*range(1, exact + 1), *logarithmic]

    def at(self, distances: Tensor, dtype: torch.dtype) -> Tensor:
        boundaries = torch.tensor(self.boundaries, device=distances.device)
        return self.table.to(dtype)[torch.bucketize(distances, boundaries, right=True)].T

    def reset(self) -> None:
        init.normal_(self.table, std=self.hidden_size**-0.5)


class KerpleLog(DistanceBias):
    """-r1 log(1 + r2 distance)."""

    def __init__(self, config: MegadapeConfig, minimum: float = 0.01) -> None:
        super().__init__(config)
        self.minimum = minimum
        self.r1, self.r2 = nn.Parameter(torch.empty(self.heads)), nn.Parameter(torch.empty(self.heads))

    def at(self, distances: Tensor, dtype: torch.dtype) -> Tensor:
        r1, r2 = (at_least(one.to(dtype), self.minimum)[:, None] for one in (self.r1, self.r2))
        return -r1 * torch.log1p(r2 * distances.to(dtype))

    def reset(self) -> None:
        init.uniform_(self.r1, 0, 2)
        init.uniform_(self.r2, 0, 1)


class KerplePower(DistanceBias):
    """-a distance^p, p at most 2."""

    def __init__(self, config: MegadapeConfig, minimum: float = 0.01) -> None:
        super().__init__(config)
        self.minimum = minimum
        self.a, self.p = nn.Parameter(torch.empty(self.heads)), nn.Parameter(torch.empty(self.heads))

    def at(self, distances: Tensor, dtype: torch.dtype) -> Tensor:
        a, p = at_least(self.a.to(dtype), self.minimum), at_least(self.p.to(dtype), self.minimum, 2.0)
        return -a[:, None] * distances.to(dtype) ** p[:, None]

    def reset(self) -> None:
        init.uniform_(self.a, 0, 1)
        init.uniform_(self.p, 0, 2)


def at_least(value: Tensor, minimum: float, maximum: float | None = None) -> Tensor:
    """Kept within bounds forward, identity backward: a parameter at its bound can still leave it."""
    return value.detach().clamp(min=minimum, max=maximum) + (value - value.detach())


class Fire(Encoding):
    """mlp(log(c distance + 1) / log(c max(L, place) + 1))."""

    adds_bias = True

    def __init__(
        self,
        config: MegadapeConfig,
        width: int = 32,
        activation: str = "relu",
        initial_c: float = 0.1,
        initial_L: float = 512.0,  # noqa: N803 - the paper's name
    ) -> None:
        super().__init__(config)
        self.initial_c, self.initial_L = initial_c, initial_L
        self.c, self.L_multiplier = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        middle = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}[activation]()
        self.mlp = nn.Sequential(nn.Linear(1, width), middle, nn.Linear(width, self.heads))

    def bias(self, q: Tensor, k: Tensor, scores: Tensor, spots: Spots) -> Tensor:
        dtype = scores.dtype
        c = self.c.to(dtype).abs()
        threshold = (self.L_multiplier.to(dtype) * self.initial_L).abs()
        normaliser = torch.log1p(c * torch.maximum(threshold, spots.query_places.to(dtype))) + 1e-6
        x = (torch.log1p(c * spots.distances.to(dtype)) / normaliser[:, :, None])[..., None]
        for layer in self.mlp:
            linear = isinstance(layer, nn.Linear)
            x = functional.linear(x, layer.weight.to(dtype), layer.bias.to(dtype)) if linear else layer(x)
        return x.permute(0, 3, 1, 2)

    def reset(self) -> None:
        init.constant_(self.c, self.initial_c)
        init.constant_(self.L_multiplier, 1.0)
        for layer in (self.mlp[0], self.mlp[2]):
            for parameter in layer.parameters():
                uniform_by_inputs(parameter, layer.in_features)


class Cope(Encoding):
    """q . e[p], where p sums the gates sigmoid(score) from the key to the query; interpolated between integers."""

    adds_bias = True

    def __init__(self, config: MegadapeConfig, max_positions: int = 64) -> None:
        super().__init__(config)
        self.embedding = nn.Parameter(torch.empty(max_positions, self.head_dim))

    def bias(self, q: Tensor, k: Tensor, scores: Tensor, spots: Spots) -> Tensor:
        gates = scores.sigmoid().masked_fill(~spots.visible, 0)
        counts = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=len(self.embedding) - 1)
        at_integers = q.to(scores.dtype) @ self.embedding.to(scores.dtype).T
        whole = counts.detach().nan_to_num()
        weight = counts - whole.floor()
        below, above = (at_integers.gather(-1, at.long()) for at in (whole.floor(), whole.ceil()))
        return below * (1 - weight) + above * weight

    def reset(self) -> None:
        init.zeros_(self.embedding)


class TransformerXL(Encoding):
    """scale (u . k + (q + v) . W_r R(distance)), R the sinusoid, sines before cosines."""

    adds_bias = True

    def __init__(self, config: MegadapeConfig) -> None:
        super().__init__(config)
        self.u = nn.Parameter(torch.empty(self.heads, self.head_dim))
        self.v = nn.Parameter(torch.empty(self.heads, self.head_dim))
        self.W_r = nn.Parameter(torch.empty(self.heads, self.head_dim, self.hidden_size))

    def bias(self, q: Tensor, k: Tensor, scores: Tensor, spots: Spots) -> Tensor:
        dtype = scores.dtype
        distances = torch.arange(k.shape[2], device=k.device)
        sinusoid = torch.cat(sine_and_cosine(distances, self.hidden_size, dtype), dim=-1)
        keys = sinusoid @ self.W_r.to(dtype).transpose(-1, -2)  # [h, distances, d]
        content = self.u.to(dtype)[:, None] @ k.to(dtype).transpose(-1, -2)
        by_distance = (q.to(dtype) + self.v.to(dtype)[:, None]) @ keys.transpose(-1, -2)
        index = spots.distances[:, None].expand(scores.shape)
        return self.head_dim**-0.5 * (content + by_distance.gather(-1, index))

    def reset(self) -> None:
        init.normal_(self.u, std=0.02)
        init.normal_(self.v, std=0.02)
        uniform_by_inputs(self.W_r, self.hidden_size)


def uniform_by_inputs(parameter: Tensor, inputs: int) -> None:
    """U(+-1 / sqrt(inputs))."""
    init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5)


ENCODINGS: dict[str, type[Encoding]] = {
    "none": NoPosition,
    "rope": Rope,
    "yarn": Yarn,
    "randomized_rope": RandomizedRope,
    "t5": T5,
    "alibi": Alibi,
    "kerple_log": KerpleLog,
    "kerple_power": KerplePower,
    "fire": Fire,
    "cope": Cope,
    "transformer_xl": TransformerXL,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
}


@dataclass(frozen=True)
class Variant:
    """One form of DAPE's equation, over an encoding that gives a bias."""

    reads: str
    """What f reads: S, B, both after one another (SB), or their sum (S+B)."""

    adds_bias: bool = True


VARIANTS = {
    "concat_residual": Variant("SB"),
    "concat": Variant("SB", adds_bias=False),
    "add_residual": Variant("S+B"),
    "bias_only": Variant("B"),
}


class Dape(nn.Module):
    """f as a small MLP across heads: w1 [D, 2h] (scores first, then bias; [D, h] where f reads h numbers)."""

    reads_neighbours = False

    def __init__(
        self, config: MegadapeConfig, with_bias: bool, hidden: int = 32, variant: str = "concat_residual", taps: int = 0
    ) -> None:
        super().__init__()
        heads, self.hidden = config.num_attention_heads, hidden
        self.variant = VARIANTS[variant] if with_bias else Variant("S", adds_bias=False)
        columns, kernel = heads * (2 if self.variant.reads == "SB" else 1), (taps,) if taps else ()
        self.w1 = nn.Parameter(torch.empty(hidden, columns, *kernel))
        self.b1 = nn.Parameter(torch.empty(hidden))
        self.w2 = nn.Parameter(torch.empty(heads, hidden, *kernel))
        self.b2 = nn.Parameter(torch.empty(heads))

    def forward(self, scores: Tensor, bias: Tensor | None, spots: Spots) -> Tensor:
        """Logits [b, h, q, k], before the mask; the batch of the bias may be 1."""
        dtype = torch.promote_types(scores.dtype, self.w1.dtype)
        scores, bias = scores.to(dtype), None if bias is None else bias.to(dtype)
        known = {"S": scores, "B": bias, "S+B": scores if bias is None else scores + bias}
        parts = [scores, bias] if self.variant.reads == "SB" else [known[self.variant.reads]]
        logits = scores + self.correction(parts, spots)
        return logits + bias if bias is not None and self.variant.adds_bias else logits

    def correction(self, parts: list[Tensor], spots: Spots) -> Tensor:
        """f of what it reads, parts of [b, h, q, k] each."""
        dtype = parts[0].dtype
        weights = self.w1.to(dtype).chunk(len(parts), dim=1)
        hidden = sum(across(w, part) for w, part in zip(weights, parts, strict=True)) + self.b1.to(dtype)[:, None, None]
        hidden = functional.leaky_relu(hidden, NEGATIVE_SLOPE)
        return across(self.w2.to(dtype), hidden) + self.b2.to(dtype)[:, None, None]

    def reset(self) -> None:
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            for parameter in (weight, bias):
                uniform_by_inputs(parameter, weight[0].numel())


class DapeV2(Dape):
    """f as two convolutions along the keys (arXiv 2410.04798); w1 [D, 2h, k], w2 [h, D, k].

    After the last key that a query sees the keys are taken to go on, unseen; before the first there is padding.
    """

    reads_neighbours = True

    def __init__(self, config: MegadapeConfig, with_bias: bool, hidden: int = 32, kernel: int = 3) -> None:
        super().__init__(config, with_bias, hidden, taps=kernel)
        self.side = kernel // 2

    def correction(self, parts: list[Tensor], spots: Spots) -> Tensor:
        shape, dtype, side = torch.broadcast_shapes(*(part.shape for part in parts)), parts[0].dtype, self.side
        x = torch.cat([part.expand(shape) for part in parts], dim=1).masked_fill(~spots.visible, 0.0)
        outside = spots.outside
        x = x if outside is None else x.masked_fill(outside, 0.0)
        w1, w2 = self.w1.to(dtype)[:, :, None], self.w2.to(dtype)[:, :, None]
        hidden = functional.conv2d(functional.pad(x, (side, 2 * side)), w1, self.b1.to(dtype))
        hidden = functional.leaky_relu(hidden, NEGATIVE_SLOPE)
        if outside is not None:
            hidden = hidden.masked_fill(functional.pad(outside, (0, side), value=False), 0.0)
        return functional.conv2d(functional.pad(hidden, (side, 0)), w2, self.b2.to(dtype))


MIXERS: dict[str, type[Dape] | None] = {"none": None, "dape": Dape, "dape_v2": DapeV2}


def across(weights: Tensor, x: Tensor) -> Tensor:
    """A linear map across heads at every pair: [m, n], [b, n, q, k] -> [b, m, q, k]."""
    return (weights @ x.flatten(2)).unflatten(2, x.shape[2:])


def build(registry: dict[str, Any], settings: dict[str, Any], *args: Any) -> Any:  # noqa: ANN401
    """What ``kind`` names, with the other settings; None where that is nothing."""
    options = {key: value for key, value in settings.items() if key != "kind"}
    if settings["kind"] not in registry:
        raise ValueError(f"config.json: unknown kind {settings['kind']!r}; known: {', '.join(registry)}")
    made = registry[settings["kind"]]
    return None if made is None else made(*args, **options)


class Output(nn.Linear):
    """A projection onto the residual stream; it begins smaller the more layers there are."""

    def __init__(self, inputs: int, config: MegadapeConfig) -> None:
        super().__init__(inputs, config.hidden_size)
        self.layers = config.num_hidden_layers

    def reset(self) -> None:
        init.normal_(self.weight, std=2 / (self.layers * self.out_features**0.5))
        init.zeros_(self.bias)


class Attention(nn.Module):
    """Causal self-attention with any encoding and mixer; ``qkv`` has queries, keys and values after one another."""

    def __init__(self, config: MegadapeConfig, layer: int, shared: Encoding | None) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.positions = None if shared is not None else build(ENCODINGS, config.positions, config)
        with_bias = (shared or self.positions).adds_bias
        self.mixer: Dape | None = build(MIXERS, config.mixer, config, with_bias)
        self.plain = self.mixer is None and not with_bias
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = Output(config.hidden_size, config)

    def forward(self, x: Tensor, spots: Spots, shared: Encoding | None, cache: Cache | None) -> Tensor:
        """Activations [b, q, hidden] -> [b, q, hidden]."""
        encoding = self.positions if shared is None else shared
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (encoding.turn(one, spots.query_places, spots.lengths) for one in (q, k))
        if cache is not None:
            k, v = (one[:, :, : spots.places.shape[1]] for one in cache.update(k, v, self.layer))
        if self.plain and spots.real is None and q.shape[2] == k.shape[2]:
            dropout = self.dropout if self.training else 0.0
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        else:
            out = self.in_blocks(q, k, v, spots, encoding)
        return self.output(out.transpose(1, 2).flatten(2))

    def in_blocks(self, q: Tensor, k: Tensor, v: Tensor, spots: Spots, encoding: Encoding) -> Tensor:
        """Some query rows at a time; with gradients, what a block holds is computed anew in the backward pass."""
        hidden = 0 if self.mixer is None else self.mixer.hidden
        rows = max(1, BLOCK_NUMBERS // (len(q) * k.shape[2] * (4 * self.heads + 2 * hidden)))
        starts, blocks = range(0, spots.queries, rows), []
        for first in starts:
            part = spots.rows(first, min(first + rows, spots.queries))
            keys = part.places.shape[1]
            args = q[:, :, first : first + rows], k[:, :, :keys], v[:, :, :keys], part, encoding
            again = torch.is_grad_enabled() and len(starts) > 1
            blocks.append(checkpoint(self.attend, *args, use_reentrant=False) if again else self.attend(*args))
        return torch.cat(blocks, dim=2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spots: Spots, encoding: Encoding) -> Tensor:
        """[b, h, q, d], everything between scores and weights at once."""
        dropout = self.dropout if self.training else 0.0
        if self.plain:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=spots.visible, dropout_p=dropout)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        scores = scores.to(torch.promote_types(q.dtype, torch.float32))
        bias = encoding.bias(q, k, scores, spots)
        if self.mixer is not None:
            logits = self.mixer(scores, bias, spots)
        else:
            logits = scores if bias is None else scores + bias
        weights = logits.masked_fill(~spots.visible, float("-inf")).softmax(-1)
        return functional.dropout(weights, dropout).to(v.dtype) @ v


class Mlp(nn.Module):
    """hidden -> intermediate -> hidden with GELU."""

    def __init__(self, config: MegadapeConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = Output(config.intermediate_size, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(functional.gelu(self.input(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: MegadapeConfig, layer: int, shared: Encoding | None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config, layer, shared)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Mlp(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, spots: Spots, shared: Encoding | None, cache: Cache | None) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), spots, shared, cache))
        return x + self.drop(self.mlp(self.mlp_norm(x)))


class MegadapePreTrainedModel(PreTrainedModel):
    """Initial values, and what transformers asks of a family of models."""

    config_class = MegadapeConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers' own form

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if hasattr(module, "reset"):
            module.reset()
        elif isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=math.sqrt(2 / (5 * self.config.hidden_size)))
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class MegadapeModel(MegadapePreTrainedModel):
    """Token ids to normalised hidden states."""

    def __init__(self, config: MegadapeConfig) -> None:
        super().__init__(config)
        first = build(ENCODINGS, config.positions, config)
        self.shared_positions: Encoding | None = first if first.shared else None
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.drop = nn.Dropout(config.dropout)
        blocks = range(config.num_hidden_layers)
        self.blocks = nn.ModuleList(Block(config, layer, self.shared_positions) for layer in blocks)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    @property
    def encoding(self) -> Encoding:
        """The position encoding; the first layer's, where each has its own."""
        encoding: Encoding = self.shared_positions or self.blocks[0].attention.positions
        return encoding

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Hidden states of the given tokens.

        Args:
            input_ids: [b, s], the tokens that follow those in the cache.
            attention_mask: [b, cached + s], 0 for padding; default: there is none.
            inputs_embeds: [b, s, hidden], in place of ids.
            cache: of the tokens so far; ``past_key_values`` is its older name.
            past_key_values: see ``cache``.
            use_cache: whether to return a cache.
            output_hidden_states: whether to return what each block was given, and the result.
            return_dict: False: a tuple.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        queries = x.shape[1]
        cache = past_key_values if cache is None else cache
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if cache is None and use_cache:
            cache = DynamicCache()
        kept, encoding = cache, self.encoding
        if cache is not None and not encoding.settled:
            # what earlier tokens become changes with the length, in all layers but the first: keep what is fed instead
            x = cache.update(x[:, None], x[:, None, :, :0], 0)[0][:, 0]
            kept = None
        past = 0 if kept is None else kept.get_seq_length()
        spots = self.lay_out(encoding, attention_mask, past + x.shape[1], x)
        x = self.drop(encoding.embed(x, spots.query_places))
        states = [x]
        for block in self.blocks:
            x = block(x, spots, self.shared_positions, kept)
            states.append(x)
        x = self.norm(x[:, -queries:])
        all_states = (*(state[:, -queries:] for state in states[:-1]), x) if output_hidden_states else None
        out = BaseModelOutputWithPast(last_hidden_state=x, hidden_states=all_states, **{CACHE: cache})
        return out.to_tuple() if return_dict is False else out

    def lay_out(self, encoding: Encoding, attention_mask: Tensor | None, keys: int, x: Tensor) -> Spots:
        """Where everything stands; x [b, q, hidden] are the last rows of so many keys."""
        real = None if attention_mask is None else attention_mask != 0
        if real is not None and real.shape != (len(x), keys):
            raise ValueError(
                f"attention_mask must be [batch, tokens], tokens of the cache counted: {[len(x), keys]}, "
                f"but is {list(real.shape)}"
            )
        if real is None or bool(real.all()):
            positions, lengths = torch.arange(keys, device=x.device)[None], torch.tensor([keys], device=x.device)
            return Spots(encoding.lay_out(positions, lengths), x.shape[1], lengths, None)
        counts = real.cumsum(-1)
        if getattr(self.blocks[0].attention.mixer, "reads_neighbours", False) and bool(
            (~real & (counts > 0) & (counts < counts[:, -1:])).any()
        ):
            raise ValueError(
                "attention_mask has padding between tokens, and this mixer reads neighbours: pad on the left"
            )
        positions, lengths = (counts - 1).clamp(min=0), counts[:, -1]
        return Spots(encoding.lay_out(positions, lengths), x.shape[1], lengths, real)


class MegadapeForCausalLM(MegadapePreTrainedModel, GenerationMixin):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}  # noqa: RUF012 - transformers' own form
    accepts_loss_kwargs = True

    def __init__(self, config: MegadapeConfig) -> None:
        super().__init__(config)
        self.model = MegadapeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """What ``forward`` is given; where tokens stand it sees from the mask and the cache."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return {key: value for key, value in inputs.items() if key not in ("cache_position", "position_ids")}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits [b, s, vocabulary], and the mean loss of the labels where they are given.

        Args:
            input_ids: see ``MegadapeModel.forward``, and so on.
            attention_mask: there.
            inputs_embeds: there.
            cache: there.
            past_key_values: there.
            labels: [b, s], the ids themselves (they are shifted here); -100 does not count.
            use_cache: there.
            output_hidden_states: there.
            return_dict: there.
            logits_to_keep: of how many of the last tokens, or of which; 0: all.
            num_items_in_batch: what the sum of losses is divided by; default: how many there are.
        """
        out = self.model(
            input_ids, attention_mask, inputs_embeds, cache, past_key_values, use_cache, output_hidden_states
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept if labels is None else slice(None)])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        result = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=out.hidden_states, **{CACHE: getattr(out, CACHE)}
        )
        return result.to_tuple() if return_dict is False else result
