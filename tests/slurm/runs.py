"""Tiny runs for the cluster: their settings, their submission, and what they left behind."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm_cluster import NODES, ROOT, Cluster, wait_for

from megadape.training.metrics import TIMING

STEPS, SAVE_EVERY = 40, 10

TINY = """
data: {{prefix: {corpus}}}
model: {{num_layers: 2, hidden_size: 32, num_heads: 4}}
training: {{steps: 40, sequence_length: 32, global_batch_size: 8, micro_batch_size: 4}}
checkpoint: {{save_every: 10, keep: 100}}
stop: {{margin: 2s}}
"""

SITE = """
gpus_per_node: 0
cpus_per_rank: 1
time: 20m
lead: 1m
python: {python}
log: {folder}/%x-%j.log
environment: {{OMP_NUM_THREADS: "1"}}
"""


def pause(seconds: int) -> str:
    """A fault: the third save of a start takes so long, on every rank; one that resumes from step 20 makes but two."""
    return f"checkpoint.before_write=delay:{seconds}@3"


@dataclass
class Submitted:
    """A run that was submitted."""

    cluster: Cluster
    folder: Path
    jobs: list[str] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        """Its folder."""
        return self.folder / "run"

    def rows(self) -> list[dict[str, Any]]:
        """Its metrics."""
        return read_rows(self.run_dir)

    def starts(self) -> list[dict[str, Any]]:
        """What its starts noted."""
        file = self.run_dir / "slurm/starts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def outcome(self) -> dict[str, Any]:
        """How its newest start ended."""
        found: dict[str, Any] = json.loads((self.run_dir / "outcome.json").read_text())
        return found

    def log(self) -> str:
        """What its jobs and its ranks said."""
        files = [*self.folder.glob("*.log"), *self.run_dir.glob("slurm/logs/*.log")]
        return "\n".join(file.read_text(errors="replace") for file in sorted(files))

    def until(self, what: Callable[[], Any]) -> None:
        """Wait for something."""
        wait_for(what, lambda: f"{self.folder}: {self.starts()}: {self.log()[-3000:]}")

    def until_step(self, step: int) -> None:
        """Wait for a step of the first start."""
        self.until(lambda: len(self.rows()) >= step)

    def until_restarted(self, count: int = 1) -> None:
        """Wait for another start."""
        self.until(lambda: len(self.starts()) > count)

    def finish(self) -> list[dict[str, str]]:
        """Wait for its jobs."""
        return self.cluster.wait(*self.jobs)

    def writers(self) -> dict[int, int]:
        """Step of each checkpoint -> restart that wrote it."""
        manifests = self.run_dir.glob("checkpoints/step-*/manifest.json")
        found = [json.loads(file.read_text()) for file in manifests]
        return {manifest["step"]: manifest["written_by"]["restart"] for manifest in found}


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl but for what a clock said; a line that is being written is left out."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in TIMING} for line in lines]


def submit(
    cluster: Cluster,
    folder: Path,
    corpus: Path,
    *,
    nodes: str,
    ranks: int = 1,
    settings: tuple[str, ...] = (),
    site: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    **environment: str,
) -> Submitted:
    """Submit a tiny run on some nodes, such as "12": as many as there are digits, and no others."""
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(TINY.format(corpus=corpus))
    (folder / "site.yaml").write_text(SITE.format(python=sys.executable, folder=folder))
    others = ",".join(f"node{number}" for number in range(1, NODES + 1) if str(number) not in nodes)
    chosen = (f"nodes={len(nodes)}", f"ranks_per_node={ranks}", f"exclude={others}", *site)
    run = Submitted(cluster, folder)
    files = [folder / "run.yaml", ROOT / "configs/positions/dape_kerple.yaml"]
    options = [word for each in (f"run_dir={run.run_dir}", *settings) for word in ("--set", each)]
    options += [word for each in chosen for word in ("--site", each)]
    done = cluster.megadape(
        "slurm", "submit", *files, "--cluster", folder / "site.yaml", *options, *words, **environment
    )
    match = re.search(r"submitted: job ([\d, ]+)", done.stdout)
    assert match, done.stdout + done.stderr
    run.jobs = match[1].strip().split(", ")
    return run


def train_here(run_dir: Path, ranks: int, words: list[str]) -> Path:
    """The same run on this machine, undisturbed, its ranks started as srun would; its folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_NTASKS": str(ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "megadape", "train", *words, "--set", f"run_dir={run_dir}"]
    processes = [
        subprocess.Popen(
            command,
            env={**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(said)
    return run_dir


def train_tiny_here(folder: Path, corpus: Path, ranks: int) -> Path:
    """The tiny run."""
    (folder / "run.yaml").write_text(TINY.format(corpus=corpus))
    return train_here(
        folder / "run", ranks, [str(folder / "run.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml")]
    )
