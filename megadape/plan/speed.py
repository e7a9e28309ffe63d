"""How long a step takes, estimated: compute, communication and bubble one after another, nothing overlapped.

    pass = operations of the slowest rank / sustained rate + bytes it receives / bandwidth    of one micro-batch
    step = (micro-batches + idle passes) x pass + data-parallel bytes / bandwidth

Good for ranking layouts; real runs overlap part of the communication and reach another share of the peak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megadape.model import TokenFlops
from megadape.model.settings import ModelSettings
from megadape.plan.cluster import Cluster
from megadape.plan.communication import Axis, Traffic
from megadape.plan.layouts import Layout

RECOMPUTED = 4 / 3
"""Operations with activation checkpointing: one forward pass more to a forward and a backward that costs two."""


@dataclass(frozen=True)
class Speed:
    """Of one step."""

    step_seconds: float
    tokens_per_second: float
    model_flops_per_second: float
    """Of one GPU; recomputation does not count."""

    compute_seconds: float
    communication_seconds: float
    bubble_seconds: float


def stage_flops(model: ModelSettings, flops: TokenFlops, layers: int, *, last: bool, checkpointing: bool) -> float:
    """Operations a token that one stage runs, over all its tensor-parallel ranks."""
    assert model.vocab_size is not None
    head = 6.0 * model.vocab_size * model.hidden_size
    blocks = (flops.total - head) * layers / model.num_layers
    return blocks * (RECOMPUTED if checkpointing else 1.0) + (head if last else 0.0)


def axis_bandwidths(layout: Layout, cluster: Cluster) -> Mapping[Axis, float]:
    """Bytes a second along each axis of the mesh, at its worst place; ranks as in ``megadape.parallel.mesh``."""
    tp, pp, dp = layout.tp, layout.pp, layout.dp

    def rank(stage: int, share: int, part: int) -> int:
        return (stage * dp + share) * tp + part

    stages = [[rank(stage, share, 0) for stage in (s, s + 1)] for s in range(pp - 1) for share in (0, dp - 1)]
    shares = [[rank(stage, share, 0) for share in range(dp)] for stage in (0, pp - 1)]
    return {
        "tensor": cluster.bandwidth([rank(0, 0, part) for part in range(tp)]),
        "pipeline": min((cluster.bandwidth(pair) for pair in stages), default=cluster.inside_node),
        "data": min(cluster.bandwidth(group) for group in shares),
    }


def estimate_speed(
    cluster: Cluster,
    layout: Layout,
    *,
    stage_flops: Sequence[float],
    traffic: Sequence[Sequence[Traffic]],
    micro_batch_tokens: int,
    micro_batches: int,
    idle: float,
    token_flops: float,
) -> Speed:
    """The estimate.

    Args:
        cluster: GPUs and links.
        layout: the ranks.
        stage_flops: operations a token of each stage.
        traffic: of each stage and step.
        micro_batch_tokens: of one pipeline.
        micro_batches: of a step.
        idle: passes that a rank stands idle.
        token_flops: operations a token of the whole model.
    """
    links = axis_bandwidths(layout, cluster)
    compute = [flops * micro_batch_tokens / (layout.tp * cluster.flops) for flops in stage_flops]
    passing = [_seconds(parts, links, ("tensor", "pipeline")) / micro_batches for parts in traffic]
    slowest = max(range(len(compute)), key=lambda stage: compute[stage] + passing[stage])
    once = compute[slowest] + passing[slowest]
    data = max(_seconds(parts, links, ("data",)) for parts in traffic)
    seconds = (micro_batches + idle) * once + data
    tokens = micro_batch_tokens * micro_batches * layout.dp / seconds
    return Speed(
        step_seconds=seconds,
        tokens_per_second=tokens,
        model_flops_per_second=tokens * token_flops / layout.ranks,
        compute_seconds=micro_batches * compute[slowest],
        communication_seconds=micro_batches * passing[slowest] + data,
        bubble_seconds=idle * once,
    )


def _seconds(parts: Sequence[Traffic], links: Mapping[Axis, float], axes: tuple[Axis, ...]) -> float:
    return sum(part.bytes / links[part.axis] for part in parts if part.axis in axes)
