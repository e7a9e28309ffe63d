"""The backend: from a request to a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megadape.attention.mixer import VARIANTS
from megadape.attention.mixer_v2 import DapeV2Mixer
from megadape.attention.request import Request
from megadape.attention.tiled.blocks import Block, ByPosition, Everything, Triangle, Visibility, split
from megadape.attention.tiled.computed import BlockBias, Computed, DenseBias, EncodingBias, NoBias
from megadape.attention.tiled.convolution import AlongKeys
from megadape.attention.tiled.function import TiledAttention
from megadape.attention.tiled.mixing import AcrossHeads, Mixing, Static
from megadape.attention.tiled.plan import Plan
from megadape.attention.tiled.sources import Source, Tables
from megadape.positions import ContextualBias, DistanceBias, ScoreBias


@dataclass(frozen=True)
class Tiled:
    """Any mixing and any bias that reads no scores; no tensor of queries x keys, forward or backward.

    Args:
        block_scores: scores (pairs x heads x sequences) that a block may hold.
        tile_numbers: numbers of the widest layer that a tile may hold: they are written and read many times, and should
            stay in a core's cache.
        rows: query rows in a block, at least and at most; a quarter of its keys in between. More rows mean less traffic
            for keys and values, and more work above the diagonal.
    """

    block_scores: int = 12 << 20
    tile_numbers: int = 16 << 15
    rows: tuple[int, int] = (16, 64)
    name: str = "tiled"

    def refuses(self, request: Request) -> str | None:
        """Dropout, and biases that read scores."""
        if request.dropout:
            return "drops no attention weights"
        if isinstance(request.bias, ContextualBias):
            return "does not show its scores to the position encoding"
        return None

    def __call__(self, request: Request) -> Tensor:
        """As in ``Backend``."""
        with torch.autocast(request.device.type, enabled=False):
            plan = self.plan(request)
            weights = plan.mixing.weights()
            arguments = (request.q, request.k, request.v, *weights, *plan.source.inputs)
            out: Tensor = TiledAttention.apply(plan, len(weights), *arguments)
        return out

    def plan(self, request: Request) -> Plan:
        """Everything but the tensors."""
        mixing = _make_mixing(request)
        heads = request.q.shape[1]
        tile_pairs = max(1, self.tile_numbers // max(heads, mixing.width))
        tabled = request.lead is not None and not isinstance(request.bias, Tensor)
        tabled = tabled and (request.bias is None or isinstance(request.bias, DistanceBias))
        # what is computed for a block is as wide as a tile's widest layer
        pairs = self.block_scores // heads if tabled else tile_pairs
        visibility = _make_visibility(request)
        blocks = tuple(split(request.q.shape[2], visibility, self._rows_for(pairs)))
        source = _make_tables(request, mixing, blocks) if tabled else _make_computed(request, mixing)
        return Plan(blocks, visibility, mixing, source, request.scale, mixing.dtype, tile_pairs)

    def _rows_for(self, pairs: int) -> Callable[[int], int]:
        fewest, most = self.rows
        return lambda keys: max(1, min(most, max(fewest, keys // 4), pairs // max(1, keys)))


def _make_mixing(request: Request) -> Mixing:
    dtype, mixer = request.score_dtype, request.mixer
    if mixer is not None:
        dtype = torch.promote_types(dtype, mixer.w1.dtype)
    if isinstance(mixer, DapeV2Mixer):
        return AlongKeys(mixer, dtype, causal=request.causal)
    if mixer is None or (request.bias is not None and not VARIANTS[mixer.variant].reads_scores):
        return Static(dtype, mixer, with_bias=request.bias is not None)
    return AcrossHeads(mixer, dtype)


def _make_visibility(request: Request) -> Visibility:
    keys = request.k.shape[2]
    if not request.causal:
        return Everything(keys)
    if request.lead is not None:
        return Triangle(keys, request.lead, request.device)
    return ByPosition(request.query_positions, request.key_positions)


def _make_tables(request: Request, mixing: Mixing, blocks: tuple[Block, ...]) -> Source:
    """Terms at the offsets that the blocks read, from the largest down."""
    assert request.lead is not None, "asked before"
    queries = request.q.shape[2]
    largest = request.lead + queries - 1
    count = max((queries - block.first + block.keys - 1 for block in blocks), default=0)
    bias = None
    if request.bias is not None:
        assert isinstance(request.bias, DistanceBias), "asked before"
        offsets = torch.arange(largest, largest - count, -1, device=request.device)
        bias = request.bias.at(offsets).to(mixing.dtype)
    return Tables(tuple(term.contiguous() for term in mixing.terms(bias, count)), queries)


def _make_computed(request: Request, mixing: Mixing) -> Source:
    parameters = () if request.mixer is None else tuple(request.mixer.parameters())
    return Computed(_make_block_bias(request, mixing.dtype), parameters, mixing.terms)


def _make_block_bias(request: Request, dtype: torch.dtype) -> BlockBias:
    match request.bias:
        case Tensor():
            return DenseBias(request.bias, dtype)
        case ScoreBias():
            return EncodingBias(request.bias, request.query_positions, request.key_positions, dtype)
        case _:
            return NoBias()
