"""The cluster that the tests share."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from slurm_cluster import NODES, Cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One for each process of tests: they do not see each other's."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:  # short: it holds sockets
        found = Cluster(Path(folder) / "c")
        done = found.tool("up", str(NODES), check=False)
        if "no namespaces can be had" in done.stderr:
            pytest.skip(f"no namespaces can be had here: {done.stderr.strip()}")
        try:
            match = re.search(r"proctrack=(\S+)", done.stdout)
            assert match, done.stdout + done.stderr
            found.tracking = match[1]
            yield found
        finally:
            found.tool("down")


@pytest.fixture(scope="session")
def tracked(cluster: Cluster) -> Cluster:
    """A cluster whose processes are tracked by cgroups, as on production clusters: elsewhere signals reach processes
    that they would not reach there, and tests of them would pass wrongly."""
    if not cluster.tracking.startswith("cgroup"):
        pytest.skip(f"processes can be tracked by {cluster.tracking} alone here: signals would reach too many")
    return cluster
