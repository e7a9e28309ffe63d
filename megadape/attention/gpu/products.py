"""Matrix products between chunks and queries, keys, values and their gradients, head by head."""

from __future__ import annotations

import triton
import triton.language as tl

from megadape.attention.gpu.walk import LARGEST


@triton.jit
def load_rows(
    start: tl.tensor, row: tl.tensor, count: tl.int32, stride: tl.int32, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr
) -> tl.tensor:
    """Rows of [count, DIM], zeros beyond: [rows, BLOCK_DIM]."""
    d = tl.arange(0, BLOCK_DIM)[None, :]
    return tl.load(start + row[:, None] * stride + d, mask=(row[:, None] < count) & (d < DIM), other=0.0)


@triton.jit
def own_head(start: tl.tensor, sequence_stride: tl.int64, head_stride: tl.int64) -> tl.tensor:
    """Where the program's head of its sequence begins; heads and sequences are axes 1 and 2 of every grid here."""
    return start + tl.program_id(2).to(tl.int64) * sequence_stride + tl.program_id(1).to(tl.int64) * head_stride


@triton.jit
def own_scores(start: tl.tensor, rows: tl.int32, width: tl.int32) -> tl.tensor:
    """The same of a chunk [sequences, heads, rows, width]."""
    size = rows.to(tl.int64) * width
    return own_head(start, size * tl.num_programs(1), size)


@triton.jit(do_not_specialize=["rows", "keys", "lead"])
def score(
    left: tl.tensor,  # [sequences, heads, rows, DIM]
    right: tl.tensor,  # [sequences, heads, keys, DIM]
    shift: tl.tensor,  # [sequences, heads, rows], subtracted before rounding
    out: tl.tensor,  # [sequences, heads, rows, width]
    left_sequence: tl.int64,
    left_head: tl.int64,
    left_row: tl.int32,
    right_sequence: tl.int64,
    right_head: tl.int64,
    right_row: tl.int32,
    shift_sequence: tl.int64,
    shift_head: tl.int64,
    rows: tl.int32,
    keys: tl.int32,
    width: tl.int32,
    lead: tl.int32,
    scale: tl.float32,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CAUSAL: tl.constexpr,
    SHIFTED: tl.constexpr,
) -> None:
    """``scale left right^T - shift`` where seen; grid: tiles of rows x tiles of keys, heads, sequences."""
    row_tiles = tl.cdiv(rows, ROWS)
    first_row, first_key = tl.program_id(0) % row_tiles * ROWS, tl.program_id(0) // row_tiles * KEYS
    if CAUSAL and first_key > lead + first_row + ROWS - 1:
        return
    row, j = first_row + tl.arange(0, ROWS), first_key + tl.arange(0, KEYS)
    a = load_rows(own_head(left, left_sequence, left_head), row, rows, left_row, DIM, BLOCK_DIM)
    b = load_rows(own_head(right, right_sequence, right_head), j, keys, right_row, DIM, BLOCK_DIM)
    x = tl.dot(a, tl.trans(b), input_precision="ieee") * scale
    if SHIFTED:
        x -= tl.load(own_head(shift, shift_sequence, shift_head) + row, mask=row < rows, other=0.0)[:, None]
    elif out.dtype.element_ty == tl.float16:
        x = tl.minimum(tl.maximum(x, -LARGEST, propagate_nan=tl.PropagateNan.ALL), LARGEST, tl.PropagateNan.ALL)
    out = own_scores(out, rows, width)
    at = row[:, None] * width + j[None, :]
    tl.store(out + at, x.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (j < width)[None, :])


@triton.jit
def load_seen(
    chunk: tl.tensor,
    row: tl.tensor,
    j: tl.tensor,
    rows: tl.int32,
    keys: tl.int32,
    width: tl.int32,
    lead: tl.int32,
    CAUSAL: tl.constexpr,
) -> tl.tensor:
    """A tile of weights or of scores' gradients, 0 where nothing is seen: what stands there may be anything."""
    x = tl.load(chunk + row[:, None] * width + j[None, :], mask=(row < rows)[:, None] & (j < width)[None, :], other=0.0)
    seen = (row < rows)[:, None] & (j < keys)[None, :]
    if CAUSAL:
        seen = seen & (j[None, :] <= lead + row[:, None])
    return tl.where(seen, x, 0.0).to(chunk.dtype.element_ty)


@triton.jit(do_not_specialize=["rows", "keys", "lead"])
def keys_backward(
    chunk: tl.tensor,  # [sequences, heads, rows, width]
    left: tl.tensor,  # [sequences, heads, rows, DIM]
    out: tl.tensor,  # [sequences, heads, keys, DIM], float32, added to
    left_sequence: tl.int64,
    left_head: tl.int64,
    left_row: tl.int32,
    out_sequence: tl.int64,
    out_head: tl.int64,
    rows: tl.int32,
    keys: tl.int32,
    width: tl.int32,
    lead: tl.int32,
    scale: tl.float32,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CAUSAL: tl.constexpr,
) -> None:
    """``out += scale chunk^T left``: gradients of values and keys; grid: tiles of keys, heads, sequences."""
    first_key = tl.program_id(0) * KEYS
    j, d = first_key + tl.arange(0, KEYS), tl.arange(0, BLOCK_DIM)[None, :]
    chunk = own_scores(chunk, rows, width)
    left = own_head(left, left_sequence, left_head)
    total = tl.zeros((KEYS, BLOCK_DIM), tl.float32)
    begin = tl.maximum(first_key - lead, 0) // ROWS * ROWS if CAUSAL else 0
    for first_row in range(begin, rows, ROWS):
        row = first_row + tl.arange(0, ROWS)
        x = load_seen(chunk, row, j, rows, keys, width, lead, CAUSAL)
        a = load_rows(left, row, rows, left_row, DIM, BLOCK_DIM)
        total = tl.dot(tl.trans(x), a, acc=total, input_precision="ieee")
    at = own_head(out, out_sequence, out_head) + j[:, None] * DIM + d
    there = (j < keys)[:, None] & (d < DIM)
    tl.store(at, tl.load(at, mask=there, other=0.0) + total * scale, mask=there)


@triton.jit(do_not_specialize=["rows", "keys", "lead", "tiles_each"])
def queries_backward(
    chunk: tl.tensor,  # [sequences, heads, rows, width]
    right: tl.tensor,  # [sequences, heads, keys, DIM]
    out: tl.tensor,  # [splits, sequences, heads, rows, DIM]
    right_sequence: tl.int64,
    right_head: tl.int64,
    right_row: tl.int32,
    out_split: tl.int64,
    out_sequence: tl.int64,
    out_head: tl.int64,
    rows: tl.int32,
    keys: tl.int32,
    width: tl.int32,
    lead: tl.int32,
    tiles_each: tl.int32,
    scale: tl.float32,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CAUSAL: tl.constexpr,
) -> None:
    """``out = scale chunk right``, for a split of the keys; grid: tiles of rows x splits, heads, sequences."""
    row_tiles = tl.cdiv(rows, ROWS)
    first_row, split = tl.program_id(0) % row_tiles * ROWS, tl.program_id(0) // row_tiles
    row, d = first_row + tl.arange(0, ROWS), tl.arange(0, BLOCK_DIM)[None, :]
    chunk = own_scores(chunk, rows, width)
    right = own_head(right, right_sequence, right_head)
    end = tl.minimum(keys, (split + 1) * tiles_each * KEYS)
    if CAUSAL:
        end = tl.minimum(end, lead + tl.minimum(first_row + ROWS, rows))
    total = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
    for tile in range(split * tiles_each, tl.cdiv(end, KEYS)):
        j = tile * KEYS + tl.arange(0, KEYS)
        x = load_seen(chunk, row, j, rows, keys, width, lead, CAUSAL)
        b = load_rows(right, j, keys, right_row, DIM, BLOCK_DIM)
        total = tl.dot(x, b, acc=total, input_precision="ieee")
    out = own_head(out, out_sequence, out_head) + split * out_split
    at = out + row[:, None] * DIM + d
    tl.store(at, (total * scale).to(out.dtype.element_ty), mask=(row < rows)[:, None] & (d < DIM))
