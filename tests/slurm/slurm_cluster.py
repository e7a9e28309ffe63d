"""A real Slurm cluster of several nodes, in namespaces of this machine; see cluster.sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NODES = 9
PATIENCE = 420.0
"""Seconds that anything may take; tests never assert on time, and this machine may be busy."""

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL"}


class Cluster:
    """The cluster, as its tests see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracking = ""

    def tool(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """cluster.sh with these words."""
        environment = {**os.environ, "CLUSTER_DIR": str(self.folder), "CLUSTER_OWNER": str(os.getpid())}
        for name in [name for name in environment if name.startswith("SLURM_")]:
            del environment[name]
        done = subprocess.run(
            [str(Path(__file__).with_name("cluster.sh")), *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def login(self, *words: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command on the login node."""
        extra = [f"{name}={value}" for name, value in environment.items()]
        return self.tool("exec", "--", "env", *extra, *words, check=check)

    def megadape(self, *words: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """The megadape command there."""
        return self.login(sys.executable, "-m", "megadape", *map(str, words), check=check, **environment)

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        said = self.login("scontrol", "--oneliner", "show", "job", number).stdout.splitlines()[0]
        return dict(re.findall(r"(\w+)=(\S*)", said))

    @contextmanager
    def failed(self, node: str, kind: str) -> Iterator[None]:
        """Break a node for the length of a block."""
        self.tool("fail", node, kind)
        try:
            yield
        finally:
            self.tool("heal", node)

    def lives(self, node: str, pid: str) -> bool:
        """Whether a process of a node is there."""
        return not self.tool("on", node, "--", "kill", "-0", pid, check=False).returncode

    def wait(self, *numbers: str) -> list[dict[str, str]]:
        """Until jobs have ended."""
        jobs: list[dict[str, str]] = []

        def ended() -> bool:
            jobs[:] = [self.job(number) for number in numbers]
            return all(job["JobState"] in ENDED for job in jobs)

        wait_for(ended, lambda: f"{[self.describe(job) for job in jobs]}", pause=1.0)
        return jobs

    def describe(self, job: dict[str, str]) -> str:
        """A job, and its log."""
        log = Path(job.get("StdOut", "/nowhere"))
        said = log.read_text(errors="replace")[-4000:] if log.is_file() else "no log"
        return f"job {job['JobId']} {job['JobState']} {job['ExitCode']}, restarts {job['Restarts']}: {said}"


def wait_for(what: Callable[[], Any], describe: Callable[[], str] = lambda: "", pause: float = 0.2) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, f"it never came: {describe()}"
        time.sleep(pause)


def why_not() -> str | None:
    """Why there can be no cluster here."""
    if os.getuid():
        return "a cluster in namespaces needs root"
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "nsenter", "ip") if not shutil.which(name, path=path)]
    return f"there is no {', '.join(missing)}: tests/slurm/cluster.sh install" if missing else None
