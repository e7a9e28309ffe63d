"""How a tile of offsets walks down the rows of a chunk.

A chunk is [sequences, heads, rows, width]; the offset i - j of row r and key j is ``lead + r - j``. A tile of
neighbouring offsets meets them again one key further right with every row. Chunks are read and written 16 bytes at a
time, which have to be aligned: a program takes every ``LANES``-th row, so that its tile moves by ``LANES`` keys at a
time and begins at a multiple of them in each of its rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(8)
"""Numbers of 16 bits in 16 bytes."""

NEGATIVE_SLOPE = tl.constexpr(0.01)
"""Of the mixer's LeakyReLU."""

LARGEST = tl.constexpr(65504.0)
"""Of float16."""

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def first_key(rows: tl.int32, OFFSETS: tl.constexpr) -> tl.tensor:
    """Where the tile begins in the program's first row; negative for tiles that meet keys further down only."""
    return tl.program_id(0) // LANES * OFFSETS - (rows + LANES - 1) // LANES * LANES


@triton.jit
def steps_met(
    key: tl.tensor, residue: tl.tensor, rows: tl.int32, keys: tl.int32, steps_each: tl.int32, OFFSETS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Begin and end of the program's steps: in row ``residue + LANES step`` the tile meets keys."""
    share = tl.program_id(1) * steps_each
    begin = tl.maximum(tl.maximum(LANES - OFFSETS - key, 0) // LANES, share)
    end = (tl.maximum(keys - key, 0) + LANES - 1) // LANES
    last = (tl.maximum(rows - residue, 0) + LANES - 1) // LANES
    return begin, tl.minimum(tl.minimum(end, last), share + steps_each)


@triton.jit
def load_matrix(
    start: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
) -> tl.tensor:
    """A small matrix, filled up with zeros."""
    r, c = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLUMNS)[None, :]
    return tl.load(start + r * ROW_STRIDE + c * COLUMN_STRIDE, mask=(r < ROWS) & (c < COLUMNS), other=0.0)


@triton.jit
def narrow(x: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Rounded, and in float16 bounded above: infinity times a weight of 0 would be no number. NaN stays."""
    if dtype == tl.float16:
        x = tl.minimum(x, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return x.to(dtype)
