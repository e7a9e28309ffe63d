"""What a rank receives in one training step, by collective and reason.

The convention, here and nowhere else: bytes that one rank receives, by ring algorithms. Over T ranks, f = (T-1)/T:

    all-reduce        2 f n     n bytes on every rank
    all-gather        f n       n bytes in all
    reduce-scatter    f n       n bytes in all
    all-to-all        f n       n bytes that a rank ends up with
    send              n

Under autocast what enters a product and what comes out of it travels in bfloat16; embeddings, norms and the residual
stream are float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from megadape.plan.shape import FLOAT, Shape

Collective = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send"]
Axis = Literal["tensor", "pipeline", "data"]

CROSS_ENTROPY = 3
"""Numbers a token that are summed over the ranks of a vocabulary: maximum, sum, logit of the target."""


@dataclass(frozen=True)
class Traffic:
    """What one rank receives for one reason."""

    reason: str
    collective: Collective
    axis: Axis
    """Over which ranks."""

    bytes: float

    def times(self, factor: float) -> Traffic:
        """The same so many times."""
        return replace(self, bytes=self.bytes * factor)


def received(collective: Collective, size: float, ranks: int) -> float:
    """Bytes that a rank receives, by the convention above."""
    if collective == "send":
        return size
    share = (ranks - 1) / ranks
    return share * size * (2 if collective == "all-reduce" else 1)


@dataclass(frozen=True)
class _Tensor:
    """Traffic over the tensor-parallel ranks."""

    shape: Shape

    def of(self, reason: str, collective: Collective, size: float) -> Traffic:
        return Traffic(reason, collective, "tensor", received(collective, size, self.shape.tp))


def tensor_parallel_step(shape: Shape, layers: int, micro_batches: int, *, first: bool, last: bool) -> list[Traffic]:
    """A stage's step over its tensor-parallel ranks."""
    if shape.tp == 1:
        return []
    once = [*block_forward(shape), *block_backward(shape)]
    if shape.checkpointing:
        once += recomputed(shape)
    parts = [part.times(layers) for part in once]
    parts += embedding(shape) if first else []
    parts += loss(shape) if last else []
    return merge(part.times(micro_batches) for part in parts)


def block_forward(shape: Shape) -> Iterator[Traffic]:
    """One block, one micro-batch."""
    over, x = _Tensor(shape), shape.tokens * shape.hidden
    if shape.split:
        yield over.of("activations into products", "all-gather", 2 * shape.product * x)
    yield from _attention(shape, backward=False)
    for _ in ("attention", "mlp"):
        yield _results(shape)


def _results(shape: Shape) -> Traffic:
    """Partial results of one sub-layer."""
    collective: Collective = "reduce-scatter" if shape.split else "all-reduce"
    return _Tensor(shape).of("results of products", collective, shape.product * shape.tokens * shape.hidden)


def recomputed(shape: Shape) -> Iterator[Traffic]:
    """What checkpointing repeats: the forward pass, but what comes after the last tensor that is kept."""
    *before, last = block_forward(shape)
    yield from (*before, last) if shape.dropout else before


def block_backward(shape: Shape) -> Iterator[Traffic]:
    """One block, one micro-batch."""
    over, x = _Tensor(shape), shape.tokens * shape.hidden
    yield from _attention(shape, backward=True)
    if not shape.split:
        yield over.of("gradients of what enters products", "all-reduce", 2 * shape.product * x)
        return
    yield over.of("gradients of what enters products", "reduce-scatter", 2 * shape.product * x)
    yield over.of("gradients of results", "all-gather", 2 * shape.product * x)
    # two norms with gain and bias, two biases of row-parallel layers
    yield over.of("gradients of norms and biases", "all-reduce", 6 * FLOAT * shape.hidden)


def _attention(shape: Shape, *, backward: bool) -> Iterator[Traffic]:
    over, common = _Tensor(shape), FLOAT * shape.common_parameters
    if backward and common:
        yield over.of("gradients of common bias parameters", "all-reduce", common)
    if not shape.mixer_hidden:
        return
    if shape.mixing == "heads":
        pairs = shape.batch * shape.length**2
        size = FLOAT if backward else shape.product
        yield over.of("DAPE's hidden layer at every pair", "all-reduce", size * shape.mixer_hidden * pairs)
        return
    if backward:
        yield over.of("gradients of common bias parameters", "all-reduce", FLOAT * shape.mixer_hidden)
    rows = shape.product * shape.tokens * shape.hidden
    gathering: Collective = "reduce-scatter" if backward else "all-gather"
    yield over.of("DAPE: queries and outputs between heads and rows", "all-to-all", 2 * rows / shape.tp)
    yield over.of("DAPE: keys and values of all heads", gathering, 2 * rows)
    yield over.of("DAPE: parameters of all heads", gathering, FLOAT * shape.head_parameters)


def embedding(shape: Shape) -> Iterator[Traffic]:
    """The embedding of one micro-batch."""
    over, x = _Tensor(shape), FLOAT * shape.tokens * shape.hidden
    yield over.of("embeddings", "reduce-scatter" if shape.split else "all-reduce", x)
    if shape.split:
        yield over.of("gradients of embeddings", "all-gather", x)
        if shape.learned_positions:
            yield over.of("gradients of positions", "all-reduce", FLOAT * shape.length * shape.hidden)


def loss(shape: Shape) -> Iterator[Traffic]:
    """The loss of one micro-batch."""
    over, x = _Tensor(shape), shape.product * shape.tokens * shape.hidden
    if shape.split:
        yield over.of("activations into products", "all-gather", x)
        yield over.of("gradients of norms and biases", "all-reduce", 2 * FLOAT * shape.hidden)
    yield over.of("gradients of what enters products", "reduce-scatter" if shape.split else "all-reduce", x)
    yield over.of("cross entropy", "all-reduce", CROSS_ENTROPY * FLOAT * shape.tokens)


def pipeline_step(
    shape: Shape, micro_batches: int, inputs: int, outputs: int, shared: Iterable[tuple[int, int]]
) -> list[Traffic]:
    """A stage's step over the stages of its pipeline.

    Args:
        shape: of a micro-batch.
        micro_batches: of a step.
        inputs: of the stage's virtual stages, how many take activations from another rank.
        outputs: how many give them to another, and get a gradient back.
        shared: parameters that other stages hold too: their numbers, and how many stages hold them.
    """
    residual = FLOAT * shape.rows * shape.hidden
    parts = [
        Traffic("activations of the stage before", "send", "pipeline", micro_batches * inputs * residual),
        Traffic("gradients of the stage after", "send", "pipeline", micro_batches * outputs * residual),
    ]
    for numbers, holders in shared:
        size = received("all-reduce", FLOAT * numbers, holders)
        parts.append(Traffic("gradients of shared parameters", "all-reduce", "pipeline", size))
    return [part for part in merge(parts) if part.bytes]


def data_parallel_step(numbers: int, zero: int, ranks: int, micro_batches: int) -> list[Traffic]:
    """A rank's step over the ranks that hold the same parameters.

    DeepSpeed 0.19.8 sums whole gradients at stages 1 and 2 too (use_multi_rank_bucket_allreduce), at stage 2 after
    every micro-batch.

    Args:
        numbers: of the rank's parameters.
        zero: ZeRO's stage.
        ranks: data-parallel ones.
        micro_batches: of a step.
    """
    if ranks == 1:
        return []

    def of(reason: str, collective: Collective, times: int = 1) -> Traffic:
        return Traffic(reason, collective, "data", times * received(collective, FLOAT * numbers, ranks))

    if zero == 3:
        return [
            of("parameters, forward and backward", "all-gather", 2 * micro_batches),
            of("gradients", "reduce-scatter", micro_batches),
        ]
    gradients = of("gradients", "all-reduce", micro_batches if zero == 2 else 1)
    return [gradients] if zero == 0 else [gradients, of("updated parameters", "all-gather")]


def merge(parts: Iterable[Traffic]) -> list[Traffic]:
    """One entry for every reason and collective."""
    sums: dict[tuple[str, Collective, Axis], float] = {}
    for part in parts:
        key = part.reason, part.collective, part.axis
        sums[key] = sums.get(key, 0.0) + part.bytes
    return [Traffic(*key, bytes) for key, bytes in sums.items()]
