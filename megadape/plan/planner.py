"""Every layout of a cluster, tried on a run: its memory, traffic and speed, or why it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch

from megadape.config.run import RunSettings
from megadape.model import GPT, Architecture, Part, TokenFlops, count_parameters, count_token_flops
from megadape.model.stages import shared_between_stages
from megadape.parallel.settings import ParallelSettings
from megadape.plan.activations import Activations, peak_activations
from megadape.plan.cluster import Cluster
from megadape.plan.communication import Traffic, data_parallel_step, pipeline_step, tensor_parallel_step
from megadape.plan.layouts import Layout, Refusal, layouts, try_layout
from megadape.plan.memory import StateBytes, ZeroSizes, state_bytes
from megadape.plan.pipeline import bubble_share, idle_passes, in_flight
from megadape.plan.shape import Shape, keeps_pairs, shape_of
from megadape.plan.speed import Speed, estimate_speed, stage_flops
from megadape.plan.stages import build_part, crossings, parts_of


@dataclass(frozen=True)
class StagePlan:
    """One rank of a pipeline stage; all of a stage are alike."""

    part: Part
    parameters: int
    """Numbers that it holds."""

    state: StateBytes
    activations: Activations
    """With an attention that keeps no tensor of queries x keys (native, tiled, sdpa without a bias)."""

    activations_with_pairs: Activations
    """With one that does (reference)."""

    keeps_pairs: bool
    """Whether the attention that the settings lead to does."""

    traffic: tuple[Traffic, ...]
    """Bytes that the rank receives in a step."""

    @property
    def peak_bytes(self) -> int:
        """On the GPU."""
        activations = self.activations_with_pairs if self.keeps_pairs else self.activations
        return self.state.total + activations.total


@dataclass(frozen=True)
class Candidate:
    """A layout that the settings allow."""

    layout: Layout
    micro_batches: int
    stages: tuple[StagePlan, ...]
    speed: Speed
    bubble: float
    """Share of a step that a rank stands idle."""

    fits: bool

    @property
    def fullest(self) -> StagePlan:
        """The stage that needs most memory."""
        return max(self.stages, key=lambda stage: stage.peak_bytes)

    @property
    def busiest(self) -> StagePlan:
        """The stage that receives most."""
        return max(self.stages, key=lambda stage: sum(part.bytes for part in stage.traffic))


@dataclass(frozen=True)
class Plan:
    """What ``megadape plan`` knows of a run on a cluster."""

    run: RunSettings
    cluster: Cluster
    parameters: int
    flops: TokenFlops
    candidates: tuple[Candidate, ...]
    """Those that fit first, the fastest first among them; then by how much memory they need."""

    refusals: tuple[Refusal, ...]

    @property
    def best(self) -> Candidate | None:
        """The fastest layout that fits."""
        return self.candidates[0] if self.candidates and self.candidates[0].fits else None


def make_plan(run: RunSettings, architecture: Architecture, cluster: Cluster) -> Plan:
    """Try every layout.

    Args:
        run: settings; their own parallel degrees do not matter.
        architecture: theirs, with the vocabulary known.
        cluster: what to run on.
    """
    planner = _Planner(run, architecture, cluster)
    candidates: list[Candidate] = []
    refusals: list[Refusal] = []
    for layout in layouts(cluster):
        settings = try_layout(run, cluster, layout)
        if isinstance(settings, Refusal):
            refusals.append(settings)
        else:
            candidates.append(planner.plan(layout, settings))
    ranked = sorted(candidates, key=_rank)
    return Plan(run, cluster, planner.parameters, planner.flops, tuple(ranked), tuple(refusals))


def _rank(candidate: Candidate) -> tuple[bool, float, int, Layout]:
    cost = candidate.speed.step_seconds if candidate.fits else candidate.fullest.peak_bytes
    # as fast as each other: the one that needs less memory, then the simpler one
    return not candidate.fits, cost, candidate.fullest.peak_bytes, candidate.layout


@dataclass
class _Planner:
    run: RunSettings
    architecture: Architecture
    cluster: Cluster
    models: dict[tuple[int, int, bool, bool], GPT] = field(default_factory=dict)
    dealt: dict[tuple[int, str], tuple[Part, ...]] = field(default_factory=dict)

    @cached_property
    def whole(self) -> GPT:
        with torch.device("meta"):
            return GPT(self.architecture)

    @cached_property
    def parameters(self) -> int:
        return count_parameters(self.whole)

    @cached_property
    def flops(self) -> TokenFlops:
        return count_token_flops(self.whole, self.run.training.sequence_length)

    @cached_property
    def zero_sizes(self) -> ZeroSizes:
        user = cast(Mapping[str, Any], self.run.training.deepspeed or {})
        return ZeroSizes.from_deepspeed(user.get("zero_optimization", {}))

    def plan(self, layout: Layout, settings: RunSettings) -> Candidate:
        """One layout."""
        training, parallel = settings.training, settings.parallel
        shape = shape_of(settings, self.architecture)
        micro_batches = training.global_batch_size // (training.micro_batch_size * layout.dp)
        pairs = keeps_pairs(settings, self.architecture)
        stages = tuple(
            self.stage(layout, parallel, shape, index, part, micro_batches, pairs)
            for index, part in enumerate(self.deal(parallel))
        )
        model, checkpointing = self.architecture.model, training.activation_checkpointing
        speed = estimate_speed(
            self.cluster,
            layout,
            stage_flops=[
                stage_flops(model, self.flops, len(s.part.layers), last=s.part.head, checkpointing=checkpointing)
                for s in stages
            ],
            traffic=[stage.traffic for stage in stages],
            micro_batch_tokens=shape.tokens,
            micro_batches=micro_batches,
            idle=idle_passes(parallel, micro_batches),
            token_flops=self.flops.total,
        )
        fits = max(stage.peak_bytes for stage in stages) <= self.cluster.usable_bytes
        return Candidate(layout, micro_batches, stages, speed, bubble_share(parallel, micro_batches), fits)

    def stage(
        self,
        layout: Layout,
        parallel: ParallelSettings,
        shape: Shape,
        index: int,
        part: Part,
        micro_batches: int,
        pairs: bool,
    ) -> StagePlan:
        """One stage of it."""
        model = self.build(parallel, part)
        flying = in_flight(parallel, index, micro_batches)
        without, with_pairs = (
            peak_activations(
                shape, len(part.layers), first=part.embedding, last=part.head, in_flight=flying, pairs=kept
            )
            for kept in (False, True)
        )
        return StagePlan(
            part=part,
            parameters=count_parameters(model),
            state=state_bytes(
                model,
                zero=layout.zero,
                data_ranks=layout.dp,
                offload=parallel.offload_optimizer,
                sizes=self.zero_sizes,
            ),
            activations=without,
            activations_with_pairs=with_pairs,
            keeps_pairs=pairs,
            traffic=tuple(self.traffic(layout, parallel, shape, index, model, micro_batches)),
        )

    def traffic(
        self, layout: Layout, parallel: ParallelSettings, shape: Shape, index: int, model: GPT, micro_batches: int
    ) -> list[Traffic]:
        """What a rank of a stage receives in a step."""
        part = model.part
        parts = tensor_parallel_step(shape, len(part.layers), micro_batches, first=part.embedding, last=part.head)
        if layout.pp > 1:
            parts += pipeline_step(shape, micro_batches, *crossings(parallel, index), self.shared(model, layout.pp))
        return parts + data_parallel_step(count_parameters(model), layout.zero, layout.dp, micro_batches)

    def shared(self, model: GPT, stages: int) -> list[tuple[int, int]]:
        """Numbers of the parameters that other stages hold too, and how many stages do."""
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        holders = {"all": stages, "ends": 2}
        return [(sizes[name], holders[where]) for name, where in shared_between_stages(model).items()]

    def build(self, parallel: ParallelSettings, part: Part) -> GPT:
        """The module of a rank; stages of as many layers are alike."""
        key = parallel.tp, len(part.layers), part.embedding, part.head
        if key not in self.models:
            self.models[key] = build_part(self.architecture, parallel, part)
        return self.models[key]

    def deal(self, parallel: ParallelSettings) -> tuple[Part, ...]:
        """What each stage holds; layouts differ in no more than stages and schedule."""
        key = parallel.pp, parallel.schedule
        if key not in self.dealt:
            self.dealt[key] = parts_of(self.architecture, parallel)
        return self.dealt[key]
