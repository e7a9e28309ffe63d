"""Scores to logits, in place.

A program holds what bias and mixer add at ``OFFSETS`` neighbouring offsets in registers and walks down the rows
(walk.py). All heads of a pair are in one program: the mixer's two layers are products of pairs x heads and pairs x
hidden units with small matrices, and the first one's accumulators are the second one's operand, without a way through
shared memory. Products are in float16, not bfloat16: eight times more exact, and scores are far from its end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megadape.attention.gpu.walk import LANES, NEGATIVE_SLOPE, first_key, load_matrix, narrow, steps_met


@triton.jit(do_not_specialize=["rows", "keys", "offsets", "first_offset", "lead", "steps_each"])
def mix_forward(
    scores: tl.tensor,  # [sequences, HEADS, rows, width], becomes the logits
    u: tl.tensor,  # [offsets, HIDDEN]
    c: tl.tensor,  # [HEADS, offsets]
    w1: tl.tensor,  # [HIDDEN, HEADS]
    w2: tl.tensor,  # [HEADS, HIDDEN]
    numerator: tl.tensor,  # [offsets]
    inverse: tl.tensor,  # [rows], of the chunk
    unit_weight: tl.tensor,  # [UNITS]
    unit_bias: tl.tensor,  # [UNITS]
    to_hidden: tl.tensor,  # [UNITS, HIDDEN]
    to_logits: tl.tensor,  # [UNITS, HEADS]
    rows: tl.int32,
    keys: tl.int32,
    width: tl.int32,
    offsets: tl.int32,
    first_offset: tl.int32,
    lead: tl.int32,
    steps_each: tl.int32,
    leak: tl.float32,
    HEADS: tl.constexpr,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    OFFSETS: tl.constexpr,
    RESIDUAL: tl.constexpr,
) -> None:
    """Grid: tiles x LANES, shares of the rows, sequences. HIDDEN is 0 without a mixer, UNITS without a network."""
    math: tl.constexpr = scores.dtype.element_ty
    residue, key = tl.program_id(0) % LANES, first_key(rows, OFFSETS)
    n, h, d = tl.arange(0, OFFSETS)[:, None], tl.arange(0, BLOCK_HEADS)[None, :], tl.arange(0, BLOCK_HIDDEN)[None, :]
    column = lead + residue - key - n - first_offset
    known = (column >= 0) & (column < offsets)
    c_tile = tl.load(c + h * offsets + column, mask=known & (h < HEADS), other=0.0)
    if HIDDEN:
        u_tile = tl.load(u + column * HIDDEN + d, mask=known & (d < HIDDEN), other=0.0)
        first = load_matrix(w1, HEADS, HIDDEN, BLOCK_HEADS, BLOCK_HIDDEN, 1, HEADS).to(math)
        second = load_matrix(w2, HIDDEN, HEADS, BLOCK_HIDDEN, BLOCK_HEADS, 1, HIDDEN).to(math)
    if UNITS:
        numerators = tl.load(numerator + column, mask=known, other=0.0)
        unit_weights = load_matrix(unit_weight, 1, UNITS, 1, BLOCK_UNITS, 0, 1)
        unit_biases = load_matrix(unit_bias, 1, UNITS, 1, BLOCK_UNITS, 0, 1)
        unit_logits = load_matrix(to_logits, UNITS, HEADS, BLOCK_UNITS, BLOCK_HEADS, HEADS, 1).to(math)
        if HIDDEN:
            unit_hidden = load_matrix(to_hidden, UNITS, HIDDEN, BLOCK_UNITS, BLOCK_HIDDEN, HIDDEN, 1).to(math)
    scores += tl.program_id(2).to(tl.int64) * HEADS * rows * width
    begin, end = steps_met(key, residue, rows, keys, steps_each, OFFSETS)
    for step in range(begin, end):
        j = tl.multiple_of(key + step * LANES, 8) + n
        at = h * (rows * width) + (residue + step * LANES) * width + j
        there = (j >= 0) & (j < width) & (h < HEADS)
        s = tl.load(scores + at, mask=there, other=0.0)
        logits = c_tile
        if UNITS:
            z = numerators * tl.load(inverse + residue + step * LANES) * unit_weights + unit_biases
            units = tl.maximum(z, leak * z).to(math)
            logits = tl.dot(units, unit_logits, acc=c_tile, input_precision="ieee")
        if HIDDEN:
            hidden = u_tile
            if UNITS:
                hidden = tl.dot(units, unit_hidden, acc=u_tile, input_precision="ieee")
            hidden = tl.dot(s, first, acc=hidden, input_precision="ieee")
            hidden = tl.maximum(hidden, NEGATIVE_SLOPE * hidden)
            logits = tl.dot(narrow(hidden, math), second, acc=logits, input_precision="ieee")
        if RESIDUAL:
            logits += s.to(tl.float32)
        tl.store(scores + at, narrow(logits, math), mask=there)
