"""What ``megadape plan`` does: read, plan, build on request, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from megadape.errors import ConfigurationError, EvaluationError
from megadape.evaluation.output import write_whole
from megadape.plan.build import Build, build_layout
from megadape.plan.cluster import BETWEEN_NODES, INSIDE_NODE, SUSTAINED_FLOPS, Cluster
from megadape.plan.layouts import Layout, Refusal, settings_for, try_layout
from megadape.plan.planner import Candidate, Plan, StagePlan, make_plan
from megadape.plan.report import render
from megadape.plan.run import load_planned


@dataclass(frozen=True)
class PlanRequest:
    """What was typed."""

    files: Sequence[Path]
    overrides: Sequence[str]
    cluster: Cluster
    build: bool = False
    ranks: str | None = None
    """Comma-separated; those to build."""

    json_file: Path | None = None


def describe_cluster(
    nodes: int,
    gpus_per_node: int,
    gpu_memory: float,
    gpu_flops: float | None = None,
    link_bandwidth: float | None = None,
    network_bandwidth: float | None = None,
) -> Cluster:
    """The cluster; what is None is assumed. ``ConfigurationError`` for what is not above 0."""
    return Cluster(
        nodes,
        gpus_per_node,
        gpu_memory,
        SUSTAINED_FLOPS if gpu_flops is None else gpu_flops,
        INSIDE_NODE if link_bandwidth is None else link_bandwidth,
        BETWEEN_NODES if network_bandwidth is None else network_bandwidth,
    )


def plan_and_write(request: PlanRequest) -> list[Table | str]:
    """Plan; the tables and sentences to show.

    Raises:
        ConfigurationError: settings, ranks or the file to write are wrong.
        AttentionError: the attention backend that the settings name cannot do what they ask.
    """
    ranks = read_ranks(request.ranks)
    run, architecture = load_planned(request.files, request.overrides)
    plan = make_plan(run, architecture, request.cluster)
    built = None
    if request.build or ranks is not None:
        layout = layout_to_build(plan)
        built = build_layout(settings_for(run, layout), architecture, request.cluster, layout, ranks)
    parts = list(render(plan, built))
    if request.json_file is not None:
        write_json(request.json_file, plan, built)
        parts.append(f"written: {request.json_file}")
    return parts


def layout_to_build(plan: Plan) -> Layout:
    """The layout of the settings themselves where they ask for one, else the best.

    Raises:
        ConfigurationError: it cannot be, or none can.
    """
    asked, ranks = plan.run.parallel, plan.cluster.ranks
    if asked.tp * asked.pp == 1:
        chosen = plan.best or next(iter(plan.candidates), None)
        if chosen is None:
            raise ConfigurationError(f"no layout of {ranks} ranks is possible, so there is nothing to build")
        return chosen.layout
    if ranks % (asked.tp * asked.pp):
        raise ConfigurationError(
            f"parallel.tp x parallel.pp must divide the ranks, but {asked.tp} x {asked.pp} does not divide {ranks}"
        )
    data_ranks = ranks // (asked.tp * asked.pp)
    layout = Layout(asked.tp, asked.pp, data_ranks, asked.zero, asked.sequence_parallel, asked.schedule)
    tried = try_layout(plan.run, plan.cluster, layout)
    if isinstance(tried, Refusal):
        raise ConfigurationError(f"the layout of these settings cannot be built on {ranks} ranks: {tried.reason}")
    return layout


def read_ranks(text: str | None) -> list[int] | None:
    """0,5,1023 -> the numbers; ``ConfigurationError`` for anything else."""
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"--ranks must be numbers with commas between them, not {text!r}") from error


def write_json(path: Path, plan: Plan, built: Build | None) -> None:
    """Everything, for programs; ``ConfigurationError`` where it cannot be written."""
    content = {
        "cluster": vars(plan.cluster),
        "parameters": plan.parameters,
        "flops_per_token": {"plain": plan.flops.plain, "mixing": plan.flops.mixing},
        "layouts": [describe(candidate) for candidate in plan.candidates],
        "refused": [{**vars(refusal.layout), "reason": refusal.reason} for refusal in plan.refusals],
        "build": None if built is None else {**vars(built), "ranks": [vars(rank) for rank in built.ranks]},
    }
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path} cannot be written: {path.parent} is no folder")
    try:
        write_whole(path, json.dumps(content, indent=1) + "\n")
    except EvaluationError as error:
        raise ConfigurationError(str(error)) from error


def describe(candidate: Candidate) -> dict[str, Any]:
    """One layout, in plain data."""
    return {
        **vars(candidate.layout),
        "fits": candidate.fits,
        "settings": list(candidate.layout.overrides()),
        "micro_batches": candidate.micro_batches,
        "bubble": candidate.bubble,
        "speed": vars(candidate.speed),
        "stages": [_describe_stage(stage) for stage in candidate.stages],
    }


def _describe_stage(stage: StagePlan) -> dict[str, Any]:
    return {
        "layers": list(stage.part.layers),
        "parameters": stage.parameters,
        "peak_bytes": stage.peak_bytes,
        "keeps_pairs": stage.keeps_pairs,
        "state_bytes": vars(stage.state),
        "activation_bytes": vars(stage.activations),
        "activation_bytes_with_pairs": vars(stage.activations_with_pairs),
        "traffic": [vars(part) for part in stage.traffic],
    }
