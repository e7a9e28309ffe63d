"""Whether a run fits what a site's jobs have, asked before it is submitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megadape.config.run import RunSettings
from megadape.errors import SlurmError
from megadape.model import Architecture
from megadape.parallel.mesh import check_degrees
from megadape.plan.cluster import Cluster
from megadape.plan.layouts import Layout, Refusal, try_layout
from megadape.plan.planner import make_plan
from megadape.plan.run import load_planned
from megadape.slurm.site import SiteSettings


def check_fit(files: Sequence[Path], overrides: Sequence[str], site: SiteSettings) -> str:
    """What a run needs of a GPU, in words.

    Raises:
        ConfigurationError: the ranks cannot be laid out as the settings say.
        SlurmError: that layout does not fit; the message names one that does.
    """
    return check_layout(*load_planned(files, overrides), site)


def check_layout(run: RunSettings, architecture: Architecture, site: SiteSettings) -> str:
    """As ``check_fit``, of settings that are read already; the vocabulary of the architecture is known."""
    asked = run.parallel
    check_degrees(site.ranks, asked.tp, asked.pp)
    cluster = Cluster(site.nodes, site.local_ranks, site.gpu_memory)
    layout = Layout(
        asked.tp,
        asked.pp,
        site.ranks // (asked.tp * asked.pp),
        asked.zero,
        asked.sequence_parallel if asked.tp > 1 else False,
        asked.schedule if asked.pp > 1 else "1f1b",
    )
    tried = try_layout(run, cluster, layout)
    if isinstance(tried, Refusal):
        raise SlurmError(f"{site.ranks} ranks cannot run this: {tried.reason}")
    if not site.gpus_per_node:
        return f"{site.ranks} ranks without GPUs"
    plan = make_plan(run, architecture, cluster)
    found = next((each for each in plan.candidates if each.layout == layout), None)
    assert found is not None, "a layout that can be is among those of the plan"
    need, usable = found.fullest.peak_bytes / 2**30, cluster.usable_bytes / 2**30
    if not found.fits:
        best = plan.best
        other = f"{' '.join(f'--set {each}' for each in best.layout.overrides())} would fit" if best else "none fits"
        raise SlurmError(
            f"a rank needs {need:.1f} GiB, and a GPU of {site.gpu_memory:g} GiB has {usable:.1f} to give; of the "
            f"layouts of {site.ranks} ranks {other}: see megadape plan --nodes {site.nodes} --gpus-per-node "
            f"{site.local_ranks}"
        )
    return f"{site.ranks} ranks, {need:.1f} of {usable:.1f} GiB of each GPU"
