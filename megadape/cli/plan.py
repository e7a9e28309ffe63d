"""``megadape plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import Files, Overrides


def plan(
    files: Files,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of the cluster.")],
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=1, help="GPUs of each node, one rank each.")],
    overrides: Overrides = None,
    gpu_memory: Annotated[float, typer.Option("--gpu-memory", help="GiB of one GPU.")] = 80.0,
    build: Annotated[
        bool, typer.Option("--build", help="Build the real modules of the layout's ranks, without memory.")
    ] = False,
    ranks: Annotated[
        str | None, typer.Option("--ranks", metavar="0,5,1023", help="Ranks to build; default: ends of each stage.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every layout to this file.")] = None,
    gpu_flops: Annotated[
        float | None, typer.Option("--gpu-flops", help="Operations a second that a GPU sustains; default: 3e14.")
    ] = None,
    link_bandwidth: Annotated[
        float | None, typer.Option("--link-bandwidth", help="Bytes a second inside a node; default: 3e11.")
    ] = None,
    network_bandwidth: Annotated[
        float | None, typer.Option("--network-bandwidth", help="Bytes a second a GPU between nodes; default: 4e10.")
    ] = None,
) -> None:
    """Which layouts of a cluster fit a run, ranked: memory, communication, speed; no GPU needed.

    Example: megadape plan configs/models/350M.yaml configs/positions/dape_kerple.yaml --nodes 4 --gpus-per-node 8
        --gpu-memory 80
    """
    from megadape.console import open_console
    from megadape.plan.command import PlanRequest, describe_cluster, plan_and_write

    cluster = describe_cluster(nodes, gpus_per_node, gpu_memory, gpu_flops, link_bandwidth, network_bandwidth)
    request = PlanRequest(files, overrides or [], cluster, build=build, ranks=ranks, json_file=json_file)
    console = open_console()
    for part in plan_and_write(request):
        console.print(part, markup=False)
