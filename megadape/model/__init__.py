"""The GPT: embedding, blocks, loss, initialisation."""

from megadape.model.flops import TokenFlops, count_token_flops
from megadape.model.gpt import GPT, build_gpt, count_parameters
from megadape.model.part import Part, PositionStreams
from megadape.model.settings import Architecture, ModelSettings

__all__ = [
    "GPT",
    "Architecture",
    "ModelSettings",
    "Part",
    "PositionStreams",
    "TokenFlops",
    "build_gpt",
    "count_parameters",
    "count_token_flops",
]
