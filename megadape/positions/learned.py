"""Learned absolute positions (Gehring et al., 2017, arXiv 1705.03122; GPT-2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from megadape.parameters import normal
from megadape.positions.base import EmbeddingEncoding, EncodingSettings, Geometry


class LearnedSettings(EncodingSettings):
    """A learned vector per position, added to the token embeddings."""

    kind: Literal["learned"] = "learned"

    max_positions: int | None = Field(default=None, ge=1)
    """Rows of the table; null: the training length. Positions past the table use its last row."""

    def build(self, geometry: Geometry) -> Learned:
        """Build it."""
        return Learned(geometry, self.max_positions or geometry.training_length)


class Learned(EmbeddingEncoding):
    """``table[position]``; positions past the table, which training never reached, use its last row."""

    def __init__(self, geometry: Geometry, max_positions: int) -> None:
        super().__init__(geometry)
        self.table = self.declare("table", (max_positions, geometry.hidden_size), normal(0.02))  # as GPT-2

    def embed(self, positions: Tensor) -> Tensor:
        """As in ``EmbeddingEncoding``."""
        return functional.embedding(positions.clamp(max=self.table.shape[0] - 1), self.table)
