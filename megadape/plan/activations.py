"""What a rank keeps of a micro-batch between its forward and its backward pass, and the peak that this leads to.

Counted from the tensors that autograd saves, block by block. n = b s tokens, H the width, F the MLP's, h heads, T
tensor-parallel ranks, V the vocabulary, e the bytes of a matrix product's inputs (2 in bfloat16, else 4). The residual
stream and the norms are float32 in every precision. Under autocast each product also keeps a bfloat16 copy of its
weight from the forward to the backward pass.

The peak of a pass is reached at the loss, where softmax, its gradient and the logits' gradient stand side by side over
what all blocks keep, or in the backward pass of the last block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megadape.plan.shape import FLOAT, Shape

INDEX = 8
"""Bytes of an index."""

MASK = 1
"""Bytes of a boolean: what dropout and causal masks keep on a GPU."""

TILE_BUFFERS = 8
"""Tiles of scores that linear-memory attention works on at a time in its backward pass."""

TILE_NUMBERS = 16 << 15


@dataclass(frozen=True)
class Kept:
    """Some tensors that autograd keeps, and why."""

    what: str
    bytes: int


@dataclass(frozen=True)
class Activations:
    """Bytes of one rank at the peak of a step, beyond parameters, gradients and optimizer."""

    blocks: int
    """Kept by the blocks, over all micro-batches in flight."""

    ends: int
    """Kept at the embedding and at the loss."""

    passing: int
    """What is there for a moment at the peak."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.blocks + self.ends + self.passing


def peak_activations(
    shape: Shape, layers: int, *, first: bool = True, last: bool = True, in_flight: float = 1, pairs: bool = False
) -> Activations:
    """The peak of a training step on one stage.

    Args:
        shape: of a micro-batch.
        layers: blocks of the stage.
        first: whether it has the embedding.
        last: whether it has the loss.
        in_flight: micro-batches whose forward pass is done and whose backward pass is not, in units of all of the
            stage's blocks.
        pairs: whether attention keeps tensors of queries x keys.
    """
    whole_block = sum(kept.bytes for kept in kept_by_block(shape, pairs=pairs))
    weights = sum(kept.bytes for kept in kept_weights(shape))
    if shape.checkpointing:
        kept = residual(shape)
        # the blocks' bfloat16 weights stay in autocast's cache until its end, and so does one recomputed block
        one_block, at_loss = whole_block + weights, layers * weights
    else:
        kept, one_block, at_loss = whole_block + weights, 0, 0
    blocks = round(in_flight * layers * kept)
    # the backward pass of the loss follows its forward pass at once
    ends = round(in_flight * first * kept_by_embedding(shape) + last * kept_by_loss(shape))
    at_loss += last * passing_loss(shape)
    in_block = one_block + passing_block(shape, pairs=pairs) - last * kept_by_loss(shape)
    return Activations(blocks, ends, max(at_loss, in_block))


def residual(shape: Shape) -> int:
    """One activation of the residual stream."""
    return FLOAT * shape.rows * shape.hidden


def kept_by_block(shape: Shape, *, pairs: bool) -> Iterator[Kept]:
    """What one block keeps of a micro-batch, but its weights' copies."""
    n, wide, e = shape.tokens, shape.hidden, shape.product
    yield Kept("inputs of both norms, float32", 2 * residual(shape))
    yield Kept("means and deviations of both norms", 2 * 2 * FLOAT * shape.rows)
    yield Kept("inputs of the query-key-value and of the MLP's first product", 2 * e * n * wide)
    yield from _kept_by_attention(shape, pairs=pairs)
    yield Kept("input of the attention's output product", e * n * wide // shape.tp)
    yield Kept("input and output of the GELU", 2 * e * n * shape.ffn // shape.tp)
    if shape.dropout:
        yield Kept("dropout's masks", 2 * MASK * shape.rows * wide)


def _kept_by_attention(shape: Shape, *, pairs: bool) -> Iterator[Kept]:
    numbers, e = shape.tokens * shape.hidden, shape.product
    own = e * numbers // shape.tp
    if shape.rotary:
        yield Kept("cosines and sines", 2 * FLOAT * shape.length * shape.hidden // shape.heads)
    if shape.rotary and not shape.exchanges:
        yield Kept("turned queries and keys, beside the values' projection", 2 * own)
    if shape.exchanges:
        yield Kept("queries of own rows, keys and values of all heads", own + 2 * e * numbers)
    else:
        yield Kept("queries, keys, values", 3 * own)
    if pairs:
        yield from _kept_pairs(shape)
        return
    if shape.encoding_bias or shape.mixer_hidden:
        columns = 6 * shape.pair_heads + shape.mixer_hidden
        yield Kept("tables over the distance", FLOAT * shape.length * columns)
    yield Kept("output in the order of heads", own)
    yield Kept("logarithms of the softmax's sums", FLOAT * shape.batch * shape.heads * shape.length // shape.tp)


def _kept_pairs(shape: Shape) -> Iterator[Kept]:
    pairs, heads, e = shape.pairs, shape.pair_heads, shape.product
    yield Kept("softmax and attention weights of every pair", (FLOAT + e) * heads * pairs)
    yield Kept("causal masks", 2 * MASK * pairs // shape.batch)
    if shape.attention_dropout:
        yield Kept("attention dropout's masks", MASK * heads * pairs)
    if shape.encoding_bias and not shape.contextual_bytes:
        yield Kept("where each pair finds its bias", INDEX * pairs // shape.batch)
    if shape.contextual_bytes:
        yield Kept("what the encoding keeps of every pair", shape.contextual_bytes * heads * pairs)
    if shape.mixer_hidden:
        per_sequence = shape.encoding_bias and not shape.contextual_bytes
        biases = 0 if not shape.encoding_bias else heads * pairs // (shape.batch if per_sequence else 1)
        yield Kept("scores and biases as the mixer reads them", e * (heads * pairs + biases))
        yield Kept("the mixer's hidden layer at every pair", e * shape.mixer_hidden * pairs)


def kept_weights(shape: Shape) -> Iterator[Kept]:
    """Copies of one block's weights in the dtype of its products."""
    if shape.product < FLOAT:
        square, wide = shape.hidden**2, shape.hidden * shape.ffn
        yield Kept("bfloat16 copies of weights", shape.product * (4 * square + 2 * wide) // shape.tp)


def kept_by_embedding(shape: Shape) -> int:
    """Token ids, and dropout's mask."""
    return INDEX * shape.tokens + shape.dropout * MASK * shape.rows * shape.hidden


def kept_by_loss(shape: Shape) -> int:
    """Input and output of the final norm, softmax over the own vocabulary, bfloat16 copy of the output layer; with a
    loss in chunks the norm's input, and the gradients of its output and of the output layer, made already."""
    own = shape.vocabulary // shape.tp
    if shape.loss_chunk:
        return residual(shape) + FLOAT * (shape.tokens + own) * shape.hidden
    copy = shape.product * own * shape.hidden if shape.product < FLOAT else 0
    return residual(shape) + shape.product * shape.tokens * shape.hidden + FLOAT * shape.tokens * own + copy


def passing_loss(shape: Shape) -> int:
    """Beside the softmax: its own gradient and the logits'; or, later, that of the output layer's weight."""
    if shape.loss_chunk:
        return _passing_chunk(shape)
    own, e = shape.vocabulary // shape.tp, shape.product
    logits, weight = shape.tokens * own, shape.hidden * own
    gradients = 2 * FLOAT * logits
    # softmax is gone by then; under autocast the weight's gradient is there in both precisions
    products = (e - FLOAT) * logits + e * shape.tokens * shape.hidden + (FLOAT if e == FLOAT else FLOAT + e) * weight
    return max(gradients, products)


def _passing_chunk(shape: Shape) -> int:
    """A chunk's logits and softmax, or its gradient of the output layer; or, later, both gradients times a factor."""
    own, e = shape.vocabulary // shape.tp, shape.product
    logits, weight = min(shape.loss_chunk, shape.tokens) * own, shape.hidden * own
    half = e if e < FLOAT else 0
    inputs = FLOAT * shape.tokens * shape.hidden + half * (shape.tokens * shape.hidden + weight)
    chunk = inputs + max((2 * FLOAT + half) * logits, (FLOAT + half) * logits + e * weight)
    return max(chunk, FLOAT * (shape.tokens * shape.hidden + weight))


def passing_block(shape: Shape, *, pairs: bool) -> int:
    """In the backward pass of a block that still has all it keeps: MLP first, then attention."""
    e, wide = shape.product, shape.tokens * shape.ffn // shape.tp
    weight = (FLOAT if e == FLOAT else FLOAT + e) * shape.hidden * shape.ffn // shape.tp
    mlp = residual(shape) + e * wide + weight
    # by the time of attention, what the MLP kept is gone
    freed = 2 * e * wide + e * shape.tokens * shape.hidden + residual(shape)
    return max(mlp, residual(shape) + _passing_attention(shape, pairs=pairs) - freed)


def _passing_attention(shape: Shape, *, pairs: bool) -> int:
    numbers = shape.tokens * shape.hidden
    gradients = FLOAT * numbers // shape.tp * 4 + (2 * FLOAT * numbers if shape.exchanges else 0)
    if not pairs:
        tiled = FLOAT * TILE_BUFFERS * TILE_NUMBERS if shape.encoding_bias or shape.mixer_hidden else 0
        return gradients + tiled
    heads, hidden = shape.pair_heads, shape.mixer_hidden
    # softmax backward: three gradients of every pair; mixer: its hidden layer's gradient before and after the LeakyReLU
    return gradients + shape.pairs * max(3 * FLOAT * heads, 2 * shape.product * hidden + FLOAT * heads)
