"""What a position encoding must be able to do.

An encoding does one of three things, and says which by the class that it extends:

- it adds to the token embeddings (``EmbeddingEncoding``);
- it turns queries and keys (``RotaryEncoding``);
- it adds to the attention scores (``ScoreBias``; ``DistanceBias`` when the distance alone decides, which the fast
  attention cores read as a table; ``ContextualBias`` when it reads queries or scores).

``NoPosition`` does none of them. Attention and the model know these classes and no encoding by name. Adding an
encoding: one file beside this one, one entry in the registry.

Encodings hold parameters but no buffers: they are built on the meta device and filled afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from megadape.parameters import DeclaredModule, substitute
from megadape.settings import Settings


@dataclass(frozen=True)
class Heads:
    """The attention heads that one tensor-parallel rank owns: ``[first, first + count)`` of ``total``."""

    total: int
    first: int = 0
    count: int | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.first < self.first + self.local <= self.total, f"{self} owns heads that do not exist"

    @property
    def own(self) -> slice:
        """The owned heads as a slice of all heads."""
        return slice(self.first, self.first + self.local)

    @property
    def local(self) -> int:
        """How many heads this rank owns."""
        return self.total - self.first if self.count is None else self.count


@dataclass(frozen=True)
class Geometry:
    """What an encoding needs to know of the model that it serves."""

    heads: Heads
    head_dim: int
    hidden_size: int
    training_length: int
    causal: bool = True


class EncodingSettings(Settings, ABC):
    """Base of the settings of all encodings; each adds ``kind``, its name."""

    @abstractmethod
    def build(self, geometry: Geometry) -> PositionEncoding:
        """Build the encoding; ``ConfigurationError`` where it does not fit the model."""


class PositionEncoding(DeclaredModule):
    """Base of all encodings."""

    shared: ClassVar[bool] = False
    """Whether one instance serves all layers (T5's table) rather than one per layer."""

    directed: ClassVar[bool] = False
    """Whether ``geometry.causal`` changes what it computes: causal and bidirectional attention then need their own."""

    counts: ClassVar[bool] = True
    """Whether ``positions`` are 0, 1, 2, ...; False: they are drawn."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self._anchor = torch.empty(0)  # follows .to(), .double() and to_empty() also where there is no parameter

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._anchor = fn(self._anchor)
        return self

    @property
    def device(self) -> torch.device:
        """Where the encoding lives."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """What the encoding computes in: its own precision, but at least float32 (bfloat16 has no 257)."""
        return torch.promote_types(self._anchor.dtype, torch.float32)

    def positions(
        self, length: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Positions of a sequence: [length] integers, increasing; drawn anew each call when randomised.

        Args:
            length: of the sequence.
            device: of the result.
            generator: to draw from (on the CPU); default torch's own.
        """
        return torch.arange(length, device=device)

    def stretch(self, length: int) -> int:
        """What of a text's length decides how its tokens are read: texts whose lengths give the same number are read
        alike as far as they agree, so that keys and values of one serve the other. 0 for all where nothing does."""
        return 0

    def view(self, heads: Heads, tensors: Mapping[str, Tensor]) -> Self:
        """This encoding on other heads, reading other tensors as its parameters."""
        other = substitute(self, tensors)
        other.geometry = replace(self.geometry, heads=heads)
        return other


class NoPosition(PositionEncoding):
    """No position encoding at all (NoPE)."""

    shared = True


class EmbeddingEncoding(PositionEncoding, ABC):
    """An encoding that is added to the token embeddings."""

    shared = True

    @abstractmethod
    def embed(self, positions: Tensor) -> Tensor:
        """[s] integer positions -> [s, hidden_size], to be added to the token embeddings."""


class RotaryEncoding(PositionEncoding, ABC):
    """An encoding that turns queries and keys."""

    shared = True

    @abstractmethod
    def rotate(self, x: Tensor, positions: Tensor, length: int) -> Tensor:
        """Turn queries or keys.

        Args:
            x: [b, h, s, d].
            positions: [s], integer positions of the rows of x.
            length: length of the whole sequence (encodings that stretch with it need to know).

        Returns:
            [b, h, s, d], of the dtype of x.
        """


class ScoreBias(PositionEncoding, ABC):
    """An encoding that adds to attention scores, whatever the content."""

    @abstractmethod
    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Bias in logits for every (query, key) pair: [q], [k] integer positions -> [local heads, q, k]."""


class DistanceBias(ScoreBias):
    """A score bias that depends on the offset i - j (query position minus key position) alone."""

    @abstractmethod
    def at(self, offsets: Tensor) -> Tensor:
        """Bias in logits at the given offsets: [n] integers, negative for keys after the query -> [local heads, n]."""

    def by_distance(self, n: int) -> Tensor:
        """Bias of keys at distances 0 .. n-1 before the query: [local heads, n]."""
        return self.at(torch.arange(n, device=self.device))

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """As in ``ScoreBias``: a table over the offsets that occur, read at every pair."""
        offsets, index = distinct_offsets(query_positions, key_positions)
        # index_select: the backward pass of plain indexing sorts the indices first
        return self.at(offsets).index_select(1, index.flatten()).view(self.geometry.heads.local, *index.shape)


class ContextualBias(PositionEncoding, ABC):
    """An encoding that adds to attention scores and reads queries or scores to do so."""

    @abstractmethod
    def contextual_bias(
        self, q: Tensor, k: Tensor, scores: Tensor, query_positions: Tensor, key_positions: Tensor, scale: float
    ) -> Tensor:
        """Bias in logits.

        Args:
            q: [b, h, q, d].
            k: [b, h, k, d]; every key that any of the queries may see, in the order of their positions.
            scores: [b, h, q, k], already scaled, not masked; float32 at least.
            query_positions: [q].
            key_positions: [k], increasing.
            scale: what q k^T was multiplied with.

        Returns:
            [b, h, q, k], of the dtype of the scores.
        """


def distinct_offsets(query_positions: Tensor, key_positions: Tensor) -> tuple[Tensor, Tensor]:
    """The offsets i - j that occur, each once, and where every pair finds its own.

    Args:
        query_positions: [q] integers i.
        key_positions: [k] integers j.

    Returns:
        offsets [n], increasing, and index [q, k] into them. n is q + k - 1 for consecutive positions; offsets in
        between that no pair has may be included.
    """
    pairs = query_positions[:, None] - key_positions[None, :]
    if pairs.numel() == 0:
        return pairs.flatten(), pairs
    first = int(query_positions.min() - key_positions.max())
    last = int(query_positions.max() - key_positions.min())
    if last - first < 4 * (len(query_positions) + len(key_positions)):
        return torch.arange(first, last + 1, device=pairs.device), pairs - first
    offsets, index = pairs.unique(return_inverse=True)
    return offsets, index


def at_least(value: Tensor, minimum: float, maximum: float | None = None) -> Tensor:
    """``value`` kept within bounds forward, identity backward: a parameter at its bound can still leave it.

    Not in place: the fp32 master copies of ZeRO would not see a clamp of the model's own copy.
    """
    return value.detach().clamp(min=minimum, max=maximum) + (value - value.detach())
