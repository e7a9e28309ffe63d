"""Softmax of logits times values, as FlashAttention does it, but for the logits, which are read."""

from __future__ import annotations

import triton
import triton.language as tl

from megadape.attention.gpu.products import load_rows, own_head, own_scores
from megadape.attention.gpu.walk import LOG2_E

NOTHING = tl.constexpr(float("-inf"))


@triton.jit(do_not_specialize=["rows", "keys", "lead", "tiles_each"])
def attend(
    logits: tl.tensor,  # [sequences, heads, rows, width]
    v: tl.tensor,  # [sequences, heads, keys, DIM]
    out: tl.tensor,  # [splits, sequences, heads, rows, DIM]
    lse: tl.tensor,  # [splits, sequences, heads, rows], log2 of the sums
    v_sequence: tl.int64,
    v_head: tl.int64,
    v_row: tl.int32,
    out_split: tl.int64,
    out_sequence: tl.int64,
    out_head: tl.int64,
    lse_split: tl.int64,
    lse_sequence: tl.int64,
    lse_head: tl.int64,
    rows: tl.int32,
    keys: tl.int32,
    width: tl.int32,
    lead: tl.int32,
    tiles_each: tl.int32,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CAUSAL: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    """A split of the keys by itself; grid: tiles of rows x splits, heads, sequences.

    Where a row sees nothing the output is 0; its log-sum is -inf for ``combine``, else +inf, which makes every weight
    of the backward pass 0.
    """
    row_tiles = tl.cdiv(rows, ROWS)
    first_row, split = tl.program_id(0) % row_tiles * ROWS, tl.program_id(0) // row_tiles
    row, d = first_row + tl.arange(0, ROWS), tl.arange(0, BLOCK_DIM)[None, :]
    logits = own_scores(logits, rows, width)
    v = own_head(v, v_sequence, v_head)
    end = tl.minimum(keys, (split + 1) * tiles_each * KEYS)
    if CAUSAL:
        end = tl.minimum(end, lead + tl.minimum(first_row + ROWS, rows))
    greatest = tl.full((ROWS,), NOTHING, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
    for tile in range(split * tiles_each, tl.cdiv(end, KEYS)):
        j = tile * KEYS + tl.arange(0, KEYS)
        there = (row < rows)[:, None] & (j < width)[None, :]
        x = tl.load(logits + row[:, None] * width + j[None, :], mask=there, other=0.0).to(tl.float32) * LOG2_E
        seen = (j < keys)[None, :]
        if CAUSAL:
            seen = seen & (j[None, :] <= lead + row[:, None])
        x = tl.where(seen, x, NOTHING)
        new = tl.maximum(greatest, tl.max(x, 1))
        base = tl.where(new == NOTHING, 0.0, new)
        weight = tl.exp2(x - base[:, None])
        decay = tl.exp2(greatest - base)
        total = total * decay + tl.sum(weight, 1)
        value = load_rows(v, j, keys, v_row, DIM, BLOCK_DIM)
        mean = tl.dot(weight.to(value.dtype), value, acc=mean * decay[:, None], input_precision="ieee")
        greatest = new
    blind = total == 0.0
    mean = mean / tl.where(blind, 1.0, total)[:, None]
    log_sum = tl.where(blind, NOTHING if SPLIT else -NOTHING, greatest + tl.log2(total))
    out = own_head(out, out_sequence, out_head) + split * out_split
    tl.store(out + row[:, None] * DIM + d, mean.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (d < DIM))
    tl.store(own_head(lse, lse_sequence, lse_head) + split * lse_split + row, log_sum, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "splits"])
def combine(
    means: tl.tensor,  # [splits, sequences, heads, rows, DIM]
    log_sums: tl.tensor,  # [splits, sequences, heads, rows]
    out: tl.tensor,  # [sequences, heads, rows, DIM]
    lse: tl.tensor,  # [sequences, heads, rows]
    out_sequence: tl.int64,
    out_head: tl.int64,
    lse_sequence: tl.int64,
    lse_head: tl.int64,
    rows: tl.int32,
    splits: tl.int32,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """All splits together; grid: tiles of rows, heads, sequences."""
    row, d = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_DIM)[None, :]
    head = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    apart = tl.num_programs(2).to(tl.int64) * tl.num_programs(1) * rows
    log_sums += head * rows
    means += head * rows * DIM
    greatest = tl.full((ROWS,), NOTHING, tl.float32)
    for split in range(splits):
        greatest = tl.maximum(greatest, tl.load(log_sums + split * apart + row, mask=row < rows, other=NOTHING))
    base = tl.where(greatest == NOTHING, 0.0, greatest)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, BLOCK_DIM), tl.float32)
    for split in range(splits):
        weight = tl.exp2(tl.load(log_sums + split * apart + row, mask=row < rows, other=NOTHING) - base)
        total += weight
        mean += weight[:, None] * load_rows(means + split * apart * DIM, row, rows, DIM, DIM, BLOCK_DIM)
    blind = total == 0.0
    mean = mean / tl.where(blind, 1.0, total)[:, None]
    at = own_head(out, out_sequence, out_head) + row[:, None] * DIM + d
    tl.store(at, mean.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (d < DIM))
    log_sum = tl.where(blind, -NOTHING, base + tl.log2(total))
    tl.store(own_head(lse, lse_sequence, lse_head) + row, log_sum, mask=row < rows)
