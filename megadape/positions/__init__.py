"""Position encodings: one file each, built by name or from their settings."""

from megadape.positions.base import (
    ContextualBias,
    DistanceBias,
    EmbeddingEncoding,
    EncodingSettings,
    Geometry,
    Heads,
    NoPosition,
    PositionEncoding,
    RotaryEncoding,
    ScoreBias,
)
from megadape.positions.registry import ENCODINGS, PositionSettings, build

__all__ = [
    "ENCODINGS",
    "ContextualBias",
    "DistanceBias",
    "EmbeddingEncoding",
    "EncodingSettings",
    "Geometry",
    "Heads",
    "NoPosition",
    "PositionEncoding",
    "PositionSettings",
    "RotaryEncoding",
    "ScoreBias",
    "build",
]
