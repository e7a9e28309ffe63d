"""``megadape slurm check``: a rank for each GPU looks around, and nodes that are not fit are named."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megadape.errors import SlurmError
from megadape.slurm.hosts import expand_hosts
from megadape.slurm.probe import PARTS
from megadape.slurm.script import Job, assignments, directives, step_options
from megadape.slurm.site import SiteSettings

_TASK = """
echo "nodes $SLURM_JOB_NODELIST"
((!${#modules[@]})) || type module &>/dev/null || source /etc/profile
for name in "${modules[@]}"; do module load "$name" || exit 2; done
exec "${inside[@]}" "$python" -m megadape slurm probe "$@"
"""

_NODES = re.compile(r"nodes (\S+)")


@dataclass(frozen=True)
class Report:
    """What all nodes said."""

    nodes: tuple[str, ...]
    ranks: int
    """Of each node."""
    findings: tuple[dict[str, Any], ...]
    errors: tuple[str, ...] = ()
    """What else was said: by srun, or by what did not start."""
    excluded: str | None = None
    """Nodes that were left out."""

    @property
    def title(self) -> str:
        """Of the table."""
        return f"{len(self.nodes)} nodes, {self.ranks} ranks each"

    def of(self, node: str, part: str) -> list[dict[str, Any]]:
        """What the ranks of a node found of one thing."""
        return [each for each in self.findings if each["node"] == node and each["part"] == part]

    def problem(self, node: str) -> str | None:
        """The first thing that is wrong with a node."""
        for part in PARTS:
            found = self.of(node, part)
            bad = next((each for each in found if not each["good"]), None)
            if bad is not None:
                return f"{part}: rank {bad['rank']}: {bad['words']}"
            if len(found) < self.ranks:
                return f"{part}: {self.ranks - len(found)} of {self.ranks} ranks did not come so far"
        return None

    @property
    def bad(self) -> dict[str, str]:
        """Nodes that are not fit -> why; of several, those that failed first: the others waited for them in vain."""
        problems = {node: found for node in self.nodes if (found := self.problem(node)) is not None}
        order = {node: PARTS.index(found.partition(":")[0]) for node, found in problems.items()}
        return {node: found for node, found in problems.items() if order[node] == min(order.values())}

    @property
    def sound(self) -> bool:
        """Whether all nodes are fit."""
        return bool(self.nodes) and not self.bad

    def sentences(self) -> list[str]:
        """The bad nodes, or that there are none."""
        if self.sound:
            return [f"all {len(self.nodes)} nodes are fit"]
        said = [f"{node}: {found}" for node, found in self.bad.items()]
        left_out = ",".join(filter(None, [self.excluded, *self.bad]))
        return [*said, *self.errors[-20:], f"to leave them out: --site exclude={left_out}"]


def check_site(site: SiteSettings, folder: Path, seconds: float) -> Report:
    """Run the probe on the nodes of a job.

    Args:
        site: which nodes, and how many.
        folder: that all must be able to write.
        seconds: allowed to each part.

    Raises:
        SlurmError: srun is not here, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SlurmError(f"{folder} cannot be made: {error.strerror or error}") from error
    job, site = Job(name="megadape-check"), site.model_copy(update={"launcher": "srun"})
    skipped = ("--signal", "--open-mode", "--output", "--requeue", "--time")
    options = [option for option in directives(job, site) if not option.startswith(skipped)]
    minutes = max(1, round(4 * seconds / 60) + 1)
    words = [str(folder.resolve()), f"--gpus={site.gpus_per_node}", f"--seconds={seconds:g}"]
    task = "\n".join([*assignments(job, site), _TASK])
    command = [
        "srun",
        *options,
        *step_options(site),
        f"--time={minutes}",
        "--kill-on-bad-exit=0",
        "bash",
        "-c",
        task,
        "probe",
        *words,
    ]
    environment = {**os.environ, "MASTER_PORT": str(10000 + secrets.randbelow(20000))}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SlurmError("there is no srun here: do this on a login node of the cluster") from error
    report = read_report(done.stdout.splitlines(), done.stderr.splitlines(), site.local_ranks)
    if not report.nodes:
        raise SlurmError(f"srun started nothing: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return replace(report, excluded=site.exclude)


def read_report(lines: Iterable[str], errors: Sequence[str], ranks: int) -> Report:
    """From what all ranks printed."""
    nodes: tuple[str, ...] = ()
    findings = []
    for line in lines:
        if match := _NODES.fullmatch(line):
            nodes = expand_hosts(match[1])
        elif line.startswith("{"):
            findings.append(json.loads(line))
    return Report(nodes, ranks, tuple(findings), tuple(errors))


def check_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a node each."""
    rows = []
    for node in report.nodes:
        cells = []
        for part in PARTS:
            found = report.of(node, part)
            good = [each for each in found if each["good"]]
            cells.append(good[0]["words"] if len(good) == report.ranks else f"{len(good)} of {report.ranks}")
        rows.append([node, *cells])
    return ["node", *PARTS], rows
