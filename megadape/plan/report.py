"""A plan as tables and sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.table import Table

from megadape.console import make_table
from megadape.plan.build import Build
from megadape.plan.cluster import USABLE_MEMORY
from megadape.plan.layouts import ZERO_STAGES, Layout, Refusal
from megadape.plan.planner import Candidate, Plan
from megadape.plan.speed import axis_bandwidths

Part = Table | str

SCHEDULE_NAMES = {"1f1b": "1F1B", "interleaved": "interleaved", "zero_bubble": "zero bubble"}

NAMED = 4
"""Layouts that are named where many cannot be for one reason."""


def render(plan: Plan, build: Build | None = None) -> Iterator[Part]:
    """Everything that the command shows, from top to bottom."""
    yield from _headline(plan)
    if plan.candidates:
        yield ""
        yield layout_table(plan)
    refused = refusal_lines(plan)
    if refused:
        yield ""
        yield "cannot be (tp x pp x dp):"
        yield from refused
    shown = plan.best or (plan.candidates[0] if plan.candidates else None)
    if shown is not None:
        yield from _details(plan, shown)
    if build is not None:
        yield ""
        yield from build_lines(build)
    yield ""
    yield from assumptions(plan)


def _headline(plan: Plan) -> Iterator[str]:
    run, model, training, cluster = plan.run, plan.run.model, plan.run.training, plan.cluster
    mixer = "" if run.mixer.kind == "none" else f" with {run.mixer.kind}"
    yield (
        f"{plan.parameters:,} parameters: {model.num_layers} layers, width {model.hidden_size}, {model.num_heads} "
        f"heads, {run.positions.kind}{mixer}; {training.global_batch_size} sequences of {training.sequence_length} a "
        f"step, {training.micro_batch_size} at once, {training.precision}, {training.engine}"
    )
    share = 100 * plan.flops.mixing / plan.flops.total
    yield (
        f"{plan.flops.total / 1e9:.2f} GFLOP a token, {share:.1f} % of them DAPE's mixing; {cluster.ranks:,} GPUs "
        f"({cluster.nodes} x {cluster.gpus_per_node}) of {cluster.gpu_memory:g} GiB"
    )


def layout_table(plan: Plan) -> Table:
    """One row for every (tp, pp, dp) that is possible, in its best form."""
    rows = [_row(candidate) for candidate in best_forms(plan.candidates)]
    columns = (
        *("tp x pp x dp", "ZeRO", "seq.", "schedule", "state", "activ.", "+ pairs", "peak", "fits"),
        *("tokens/s", "TFLOP/s", "GB", "bubble"),
    )
    return make_table(
        "layouts in their best form: GiB on the fullest GPU, TFLOP/s of one GPU, GB received a step by the busiest",
        columns,
        rows,
    )


def best_forms(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first of each (tp, pp, dp)."""
    forms: dict[tuple[int, int, int], Candidate] = {}
    for candidate in candidates:
        layout = candidate.layout
        forms.setdefault((layout.tp, layout.pp, layout.dp), candidate)
    return list(forms.values())


def _row(candidate: Candidate) -> tuple[str, ...]:
    layout, fullest = candidate.layout, candidate.fullest
    more = fullest.activations_with_pairs.total - fullest.activations.total
    return (
        f"{layout.tp} x {layout.pp} x {layout.dp}",
        str(layout.zero),
        "split" if layout.sequence_parallel else "whole",
        SCHEDULE_NAMES[layout.schedule] if layout.pp > 1 else "-",
        _gib(fullest.state.total),
        _gib(fullest.activations.total),
        _gib(more) if fullest.keeps_pairs else f"({_gib(more)})",
        _gib(fullest.peak_bytes),
        "yes" if candidate.fits else "no",
        f"{candidate.speed.tokens_per_second:,.0f}",
        f"{candidate.speed.model_flops_per_second / 1e12:,.0f}",
        f"{sum(part.bytes for part in candidate.busiest.traffic) / 1e9:,.2f}",
        f"{100 * candidate.bubble:.0f} %",
    )


def refusal_lines(plan: Plan) -> list[str]:
    """Why the other layouts cannot be: one line for each kind of reason, with one layout's own words."""
    kinds: dict[str, list[Refusal]] = {}
    for refusal in plan.refusals:
        kinds.setdefault(re.sub(r"\d+", "#", refusal.reason), []).append(refusal)
    return [f"  {_name_layouts([r.layout for r in refusals])}: {refusals[0].reason}" for refusals in kinds.values()]


def _name_layouts(layouts: Sequence[Layout]) -> str:
    """The first few, and how many there are; ZeRO's stages where not all are meant."""
    names = list(dict.fromkeys(f"{layout.tp} x {layout.pp} x {layout.dp}" for layout in layouts))
    shown = ", ".join(names[:NAMED]) + (f", ... ({len(names)} in all)" if len(names) > NAMED else "")
    stages = sorted({layout.zero for layout in layouts})
    return shown if len(stages) == len(ZERO_STAGES) else f"{shown} with ZeRO {', '.join(map(str, stages))}"


def _details(plan: Plan, candidate: Candidate) -> Iterator[Part]:
    layout, speed = candidate.layout, candidate.speed
    yield ""
    if not candidate.fits:
        yield "nothing fits; the nearest:"
    yield memory_table(candidate)
    yield ""
    yield traffic_table(plan, candidate)
    yield ""
    yield (
        f"a step: {_time(speed.step_seconds)} = {_time(speed.compute_seconds)} of compute + "
        f"{_time(speed.communication_seconds)} of communication + {_time(speed.bubble_seconds)} of bubble; "
        f"{candidate.micro_batches} micro-batch{'es' * (candidate.micro_batches > 1)} a pipeline"
    )
    if candidate.fits:
        yield f"best: {' '.join(f'--set {setting}' for setting in layout.overrides())}"


def memory_table(candidate: Candidate) -> Table:
    """A rank of every stage."""
    layout = candidate.layout
    columns = (
        *("stage", "layers", "numbers held", "parameters", "optimizer", "gradients", "buffers"),
        *("activations", "+ pairs", "peak"),
    )
    rows = [
        (
            str(index),
            str(len(stage.part.layers)),
            f"{stage.parameters:,}",
            *(
                _gib(stage.state.parameters),
                _gib(stage.state.optimizer),
                _gib(stage.state.gradients),
                _gib(stage.state.buffers),
            ),
            _gib(stage.activations.total),
            _gib(stage.activations_with_pairs.total - stage.activations.total),
            _gib(stage.peak_bytes),
        )
        for index, stage in enumerate(candidate.stages)
    ]
    title = f"tp {layout.tp} x pp {layout.pp} x dp {layout.dp}, ZeRO {layout.zero}: one GPU of each stage (GiB)"
    return make_table(title, columns, rows)


def traffic_table(plan: Plan, candidate: Candidate) -> Table:
    """What the busiest rank receives in a step."""
    links = axis_bandwidths(candidate.layout, plan.cluster)
    rows = [
        (part.reason, part.collective, part.axis, _bytes(part.bytes), _time(part.bytes / links[part.axis]))
        for part in sorted(candidate.busiest.traffic, key=lambda part: -part.bytes)
    ]
    return make_table("received a step by the busiest GPU", ("why", "by", "parallel axis", "bytes", "time"), rows)


def build_lines(build: Build) -> Iterator[str | Table]:
    """What ``--build`` assembled."""
    rows = [
        (
            str(rank.rank),
            f"{rank.stage}, {rank.data_rank}, {rank.tensor_rank}",
            f"{_runs(rank.layers)}",
            f"{rank.parameters:,}",
        )
        for rank in build.ranks
    ]
    yield make_table("built", ("rank", "stage, data, tensor", "layers", "parameters"), rows)
    yield (
        f"all {build.models} parts of the model are built: together {build.parameters:,} parameters, as a single "
        f"process has ({build.expected:,})"
    )


def assumptions(plan: Plan) -> Iterator[str]:
    """What the figures rest on."""
    cluster = plan.cluster
    yield (
        f"assumed: {cluster.flops / 1e12:,.0f} TFLOP/s sustained a GPU (--gpu-flops), "
        f"{cluster.inside_node / 1e9:,.0f} GB/s received inside a node (--link-bandwidth), "
        f"{cluster.between_nodes / 1e9:,.0f} GB/s between nodes (--network-bandwidth), nothing overlapped; "
        f"{100 * USABLE_MEMORY:.0f} % of a GPU's memory usable"
    )
    yield ("pairs: tensors of queries x keys, which only the reference backend keeps; in brackets where it is not used")


def _runs(layers: Sequence[int]) -> str:
    """0-3, 8-11."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size / 1e6:,.3f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1000 * seconds:,.2f} ms"
