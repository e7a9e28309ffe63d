"""The mix again, and backward: scores become their own gradient, the weights' gradient becomes the weights.

Sums over rows stay in a program's registers. They are added to a slot of its own, which no other program of a launch
touches, and slots are summed at the very end: the same bits every time, without atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megadape.attention.gpu.walk import LANES, LOG2_E, NEGATIVE_SLOPE, first_key, load_matrix, narrow, steps_met


@triton.jit
def add_to(start: tl.tensor, value: tl.tensor, mask: tl.tensor) -> None:
    """Add to what is there; nobody else does."""
    tl.store(start, tl.load(start, mask=mask, other=0.0) + value, mask=mask)


@triton.jit(do_not_specialize=["rows", "keys", "offsets", "first_offset", "lead", "queries", "steps_each"])
def mix_backward(
    scores: tl.tensor,  # [sequences, HEADS, rows, width]
    dscores: tl.tensor,  # the same memory, in the dtype of gradients
    weights: tl.tensor,  # likewise [..]: holds d weights - their mean over the row, becomes the weights
    lse: tl.tensor,  # [sequences, HEADS, queries], log2 of the sums, from the chunk's first row on
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
    du: tl.tensor,  # [slots, offsets, HIDDEN]
    dc: tl.tensor,  # [slots, HEADS, offsets]
    dw1: tl.tensor,  # [programs, HIDDEN, HEADS]
    dw2: tl.tensor,  # [programs, HIDDEN, HEADS], transposed
    dnumerator: tl.tensor,  # [slots, offsets]
    dunit: tl.tensor,  # [programs, UNITS, 2], of weight and bias
    dto_hidden: tl.tensor,  # [programs, UNITS, HIDDEN]
    dto_logits: tl.tensor,  # [programs, UNITS, HEADS]
    dinverse: tl.tensor,  # [sequences, tiles, rows], of the chunk, written
    rows: tl.int32,
    keys: tl.int32,
    width: tl.int32,
    offsets: tl.int32,
    first_offset: tl.int32,
    lead: tl.int32,
    steps_each: tl.int32,
    leak: tl.float32,
    queries: tl.int32,
    HEADS: tl.constexpr,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    OFFSETS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    CAUSAL: tl.constexpr,
) -> None:
    """Grid as of ``mix_forward``."""
    math: tl.constexpr = scores.dtype.element_ty
    low: tl.constexpr = dscores.dtype.element_ty
    residue, key = tl.program_id(0) % LANES, first_key(rows, OFFSETS)
    n, h, d = tl.arange(0, OFFSETS)[:, None], tl.arange(0, BLOCK_HEADS)[None, :], tl.arange(0, BLOCK_HIDDEN)[None, :]
    offset = lead + residue - key - n
    column = offset - first_offset
    known = (column >= 0) & (column < offsets)
    c_tile = tl.load(c + h * offsets + column, mask=known & (h < HEADS), other=0.0)
    c_sum = tl.zeros((OFFSETS, BLOCK_HEADS), tl.float32)
    if HIDDEN:
        u_tile = tl.load(u + column * HIDDEN + d, mask=known & (d < HIDDEN), other=0.0)
        u_sum = tl.zeros((OFFSETS, BLOCK_HIDDEN), tl.float32)
        w1_sum = tl.zeros((BLOCK_HIDDEN, BLOCK_HEADS), tl.float32)
        w2_sum = tl.zeros((BLOCK_HIDDEN, BLOCK_HEADS), tl.float32)
        first = load_matrix(w1, HEADS, HIDDEN, BLOCK_HEADS, BLOCK_HIDDEN, 1, HEADS).to(math)
        second = load_matrix(w2, HIDDEN, HEADS, BLOCK_HIDDEN, BLOCK_HEADS, 1, HIDDEN).to(math)
        first_back = load_matrix(w1, HIDDEN, HEADS, BLOCK_HIDDEN, BLOCK_HEADS, HEADS, 1).to(low)
        second_back = load_matrix(w2, HEADS, HIDDEN, BLOCK_HEADS, BLOCK_HIDDEN, HIDDEN, 1).to(low)
    if UNITS:
        numerators = tl.load(numerator + column, mask=known, other=0.0)
        unit_weights = load_matrix(unit_weight, 1, UNITS, 1, BLOCK_UNITS, 0, 1)
        unit_biases = load_matrix(unit_bias, 1, UNITS, 1, BLOCK_UNITS, 0, 1)
        unit_logits = load_matrix(to_logits, UNITS, HEADS, BLOCK_UNITS, BLOCK_HEADS, HEADS, 1).to(math)
        unit_logits_back = load_matrix(to_logits, HEADS, UNITS, BLOCK_HEADS, BLOCK_UNITS, 1, HEADS).to(low)
        numerator_sum = tl.zeros((OFFSETS, 1), tl.float32)
        unit_sum = tl.zeros((BLOCK_UNITS, 16), tl.float32)
        to_logits_sum = tl.zeros((BLOCK_UNITS, BLOCK_HEADS), tl.float32)
        if HIDDEN:
            unit_hidden = load_matrix(to_hidden, UNITS, HIDDEN, BLOCK_UNITS, BLOCK_HIDDEN, HIDDEN, 1).to(math)
            unit_hidden_back = load_matrix(to_hidden, HIDDEN, UNITS, BLOCK_HIDDEN, BLOCK_UNITS, 1, HIDDEN).to(low)
            to_hidden_sum = tl.zeros((BLOCK_UNITS, BLOCK_HIDDEN), tl.float32)
    sequence = tl.program_id(2).to(tl.int64)
    chunk = sequence * HEADS * rows * width
    scores += chunk
    dscores += chunk
    weights += chunk
    lse += sequence * HEADS * queries
    begin, end = steps_met(key, residue, rows, keys, steps_each, OFFSETS)
    for step in range(begin, end):
        row = residue + step * LANES
        j = tl.multiple_of(key + step * LANES, 8) + n
        at = h * (rows * width) + row * width + j
        there = (j >= 0) & (j < width) & (h < HEADS)
        seen = there & (j < keys)
        if CAUSAL:
            seen = seen & (offset >= 0)
        s = tl.load(scores + at, mask=there, other=0.0)
        s = tl.where(seen, s, 0.0).to(math)  # what is not seen may be anything
        upstream = tl.load(weights + at, mask=there, other=0.0).to(tl.float32)
        log_sum = tl.load(lse + h * queries + row, mask=h < HEADS, other=0.0)
        logits = c_tile
        if UNITS:
            factor = tl.load(inverse + row)
            x = numerators * factor
            z = x * unit_weights + unit_biases
            unit_slope = tl.where(z > 0, 1.0, leak)
            units = (z * unit_slope).to(math)
            logits = tl.dot(units, unit_logits, acc=c_tile, input_precision="ieee")
        if HIDDEN:
            hidden = u_tile
            if UNITS:
                hidden = tl.dot(units, unit_hidden, acc=u_tile, input_precision="ieee")
            hidden = tl.dot(s, first, acc=hidden, input_precision="ieee")
            slope = tl.where(hidden > 0, 1.0, NEGATIVE_SLOPE)
            hidden_low = narrow(hidden * slope, math)
            logits = tl.dot(hidden_low, second, acc=logits, input_precision="ieee")
        if RESIDUAL:
            logits += s.to(tl.float32)
        logits = narrow(logits, math).to(tl.float32)  # as they were stored: the weights of a row sum to 1
        weight = tl.where(seen, tl.exp2(logits * LOG2_E - log_sum), 0.0)
        dlogits = tl.where(seen, weight * upstream, 0.0)
        tl.store(weights + at, weight.to(low), mask=there)
        c_sum += dlogits
        ds = tl.zeros((OFFSETS, BLOCK_HEADS), tl.float32)
        if RESIDUAL:
            ds = dlogits
        dlogits_low = dlogits.to(low)
        if UNITS:
            dunits = tl.dot(dlogits_low, unit_logits_back, input_precision="ieee")
            units_back = tl.trans(units).to(low)
            to_logits_sum = tl.dot(units_back, dlogits_low, acc=to_logits_sum, input_precision="ieee")
        if HIDDEN:
            dhidden = tl.dot(dlogits_low, second_back, input_precision="ieee") * slope
            u_sum += dhidden
            dhidden_low = dhidden.to(low)
            ds = tl.dot(dhidden_low, first_back, acc=ds, input_precision="ieee")
            if UNITS:
                dunits = tl.dot(dhidden_low, unit_hidden_back, acc=dunits, input_precision="ieee")
                to_hidden_sum = tl.dot(units_back, dhidden_low, acc=to_hidden_sum, input_precision="ieee")
            w1_sum = tl.dot(tl.trans(dhidden_low), s.to(low), acc=w1_sum, input_precision="ieee")
            w2_sum = tl.dot(tl.trans(hidden_low).to(low), dlogits_low, acc=w2_sum, input_precision="ieee")
        if UNITS:
            dz = dunits * unit_slope
            side = tl.arange(0, 16)[None, :]
            inputs = tl.where(side == 0, x, tl.where(side == 1, 1.0, 0.0)).to(low)
            unit_sum = tl.dot(tl.trans(dz.to(low)), inputs, acc=unit_sum, input_precision="ieee")
            dx = tl.sum(dz * unit_weights, 1, keep_dims=True)
            numerator_sum += dx * factor
            tile = tl.program_id(0) // LANES
            into = dinverse + (sequence * (tl.num_programs(0) // LANES) + tile) * rows + row
            tl.store(into, tl.sum(tl.sum(dx * numerators, 1), 0))
        tl.store(dscores + at, ds.to(low), mask=there)
    share = sequence * tl.num_programs(1) + tl.program_id(1)
    slot = (share * LANES + residue) * offsets
    add_to(dc + slot * HEADS + h * offsets + column, c_sum, known & (h < HEADS))
    program = share * tl.num_programs(0) + tl.program_id(0)
    unit = tl.arange(0, BLOCK_UNITS)[:, None]
    if UNITS:
        add_to(dnumerator + slot + column, numerator_sum, known)
        side = tl.arange(0, 16)[None, :]
        add_to(dunit + program * UNITS * 2 + unit * 2 + side, unit_sum, (unit < UNITS) & (side < 2))
        own = program * UNITS * HEADS + unit * HEADS + h
        add_to(dto_logits + own, to_logits_sum, (unit < UNITS) & (h < HEADS))
    if HIDDEN:
        if UNITS:
            own = program * UNITS * HIDDEN + unit * HIDDEN + d
            add_to(dto_hidden + own, to_hidden_sum, (unit < UNITS) & (d < HIDDEN))
        add_to(du + slot * HIDDEN + column * HIDDEN + d, u_sum, known & (d < HIDDEN))
        hidden_unit = tl.arange(0, BLOCK_HIDDEN)[:, None]
        own = program * HIDDEN * HEADS + hidden_unit * HEADS + h
        add_to(dw1 + own, w1_sum, (hidden_unit < HIDDEN) & (h < HEADS))
        add_to(dw2 + own, w2_sum, (hidden_unit < HIDDEN) & (h < HEADS))
