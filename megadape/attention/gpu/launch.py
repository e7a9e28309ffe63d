"""Scores, softmax and matrix products of a chunk: the kernels as functions of tensors."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from megadape.attention.gpu import products, softmax
from megadape.attention.gpu.scene import Scene, block


def score(scene: Scene, left: Tensor, right: Tensor, out: Tensor, scale: float, shift: Tensor | None = None) -> None:
    """``out = scale left right^T [- shift]``, where seen."""
    chunk, tiles, dim = scene.chunk, scene.tiles, left.shape[-1]
    grid = (ceil(chunk.rows / tiles.rows) * ceil(chunk.width / tiles.keys), scene.heads, chunk.sequences)
    no_shift = left if shift is None else shift
    products.score[grid](
        left,
        right,
        no_shift,
        out,
        *left.stride()[:3],
        *right.stride()[:3],
        *no_shift.stride()[:2],
        chunk.rows,
        chunk.keys,
        chunk.width,
        scene.lead,
        scale,
        DIM=dim,
        BLOCK_DIM=block(dim),
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        CAUSAL=scene.causal,
        SHIFTED=shift is not None,
        num_warps=tiles.warps,
    )


def attend(scene: Scene, logits: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """Softmax times values, into ``out`` and ``lse``."""
    chunk, tiles, dim = scene.chunk, scene.tiles, v.shape[-1]
    row_tiles = ceil(chunk.rows / tiles.rows)
    splits = scene.split(row_tiles)
    parts = (out[None], lse[None])
    if splits > 1:
        shape = splits, *out.shape[:3]
        parts = (out.new_empty(*shape, dim, dtype=torch.float32), lse.new_empty(shape))
    softmax.attend[(row_tiles * splits, scene.heads, chunk.sequences)](
        logits,
        v,
        *parts,
        *v.stride()[:3],
        *parts[0].stride()[:3],
        *parts[1].stride()[:3],
        chunk.rows,
        chunk.keys,
        chunk.width,
        scene.lead,
        scene.tiles_each(splits),
        DIM=dim,
        BLOCK_DIM=block(dim),
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        CAUSAL=scene.causal,
        SPLIT=splits > 1,
        num_warps=tiles.warps,
    )
    if splits == 1:
        return
    grid = (ceil(chunk.rows / 32), scene.heads, chunk.sequences)
    strides = *out.stride()[:2], *lse.stride()[:2]
    softmax.combine[grid](*parts, out, lse, *strides, chunk.rows, splits, DIM=dim, BLOCK_DIM=block(dim), ROWS=32)


def add_keys_gradient(scene: Scene, x: Tensor, left: Tensor, out: Tensor, scale: float) -> None:
    """``out += scale x^T left``; out [sequences, h, keys, d], contiguous but for its batch."""
    chunk, tiles, dim = scene.chunk, scene.tiles, left.shape[-1]
    key_tile, row_tile = tiles.rows, tiles.keys
    products.keys_backward[(ceil(chunk.keys / key_tile), scene.heads, chunk.sequences)](
        x,
        left,
        out,
        *left.stride()[:3],
        *out.stride()[:2],
        chunk.rows,
        chunk.keys,
        chunk.width,
        scene.lead,
        scale,
        DIM=dim,
        BLOCK_DIM=block(dim),
        ROWS=row_tile,
        KEYS=key_tile,
        CAUSAL=scene.causal,
        num_warps=tiles.warps,
    )


def put_queries_gradient(scene: Scene, x: Tensor, right: Tensor, out: Tensor, scale: float) -> None:
    """``out = scale x right``."""
    chunk, tiles, dim = scene.chunk, scene.tiles, right.shape[-1]
    row_tiles = ceil(chunk.rows / tiles.rows)
    splits = scene.split(row_tiles)
    parts = out[None] if splits == 1 else out.new_empty(splits, *out.shape, dtype=torch.float32)
    products.queries_backward[(row_tiles * splits, scene.heads, chunk.sequences)](
        x,
        right,
        parts,
        *right.stride()[:3],
        *parts.stride()[:3],
        chunk.rows,
        chunk.keys,
        chunk.width,
        scene.lead,
        scene.tiles_each(splits),
        scale,
        DIM=dim,
        BLOCK_DIM=block(dim),
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        CAUSAL=scene.causal,
        num_warps=tiles.warps,
    )
    if splits > 1:
        out.copy_(parts.sum(0))
