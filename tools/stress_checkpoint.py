"""Kill a training run at random, again and again, and see whether it comes back.

    python tools/stress_checkpoint.py --kills 100 --folder stress

A small model is trained with a checkpoint every second step. The process is killed (kill -9) after a random time, or at
a random fault point of its saves; after each kill all checkpoints are read in full, and the same command is started
again. In the end the run is left alone until it is done, and its metrics and its parameters are compared, bit for bit,
with a run that was never killed.

Exit code 0: nothing was lost; 1: something was, and a line says what.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.manifest import find_problem
from megadape.data import preprocess_files
from megadape.faults import POINTS, VARIABLE
from megadape.training.metrics import TIMING

ROOT = Path(__file__).parents[1]

REACHED = [point for point in POINTS if point.startswith("checkpoint.") and not point.endswith("between_renames")]
"""A run that goes on saves no step twice."""


@dataclass
class Findings:
    """What the trials came to."""

    kills: Counter[str] = field(default_factory=Counter)
    resumed_at: list[int] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    """What was lost, in words."""


def make_corpus(folder: Path) -> Path:
    """A small dataset of real text."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [library / name for name in ("ast.py", "calendar.py", "csv.py", "shlex.py", "statistics.py")]
    prefix = folder / "corpus"
    preprocess_files(files, prefix, tokenizer="byte", append_eod=True, text_suffixes=(".py",))
    return prefix


def command(prefix: Path, run_dir: Path, steps: int, asynchronous: bool) -> list[str]:
    """The training run, and the same one again."""
    settings = {
        "run_dir": run_dir,
        "data.prefix": prefix,
        "model.num_layers": 2,
        "model.hidden_size": 64,
        "model.num_heads": 4,
        "training.steps": steps,
        "training.sequence_length": 32,
        "training.global_batch_size": 2,
        "training.micro_batch_size": 2,
        "validation.every": 0,
        "checkpoint.save_every": 2,
        "checkpoint.asynchronous": str(asynchronous).lower(),
    }
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    models = [str(ROOT / "configs/models/demo.yaml"), str(ROOT / "configs/positions/dape_kerple.yaml")]
    return [sys.executable, "-m", "megadape", "train", *models, *given]


def start(words: list[str], log: Path, fault: str = "") -> subprocess.Popen[bytes]:
    """Start the run, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", VARIABLE: fault}
    with log.open("ab") as file:
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def kill_once(words: list[str], run_dir: Path, log: Path, order: random.Random, findings: Findings) -> bool:
    """One trial; whether there is something left to kill."""
    before = newest_step(run_dir)
    point = order.choice([*REACHED, *[""] * len(REACHED)])
    count = 1 if point == "checkpoint.after_take_over" else order.randint(1, 4)
    process = start(words, log, f"{point}=kill@{count}" if point else "")
    limit = time.monotonic() + 300
    if not point:
        wait_for_progress(process, run_dir, before, limit)
        time.sleep(order.random() * 1.5)
        process.kill()
    code = process.wait(max(1.0, limit - time.monotonic()))
    if code == 0:
        return False
    findings.kills[point or "at a random time"] += 1
    if code != -9:
        findings.losses.append(f"the run ended with code {code} instead of being killed; see {log}")
        return False
    check(run_dir, before, findings)
    return True


def wait_for_progress(process: subprocess.Popen[bytes], run_dir: Path, before: int | None, limit: float) -> None:
    """Until a new checkpoint is there."""
    final = CheckpointFolder(run_dir / "checkpoints")
    while process.poll() is None and time.monotonic() < limit:
        found = final.list()
        if found and found[0].step > (before or 0):
            return
        time.sleep(0.01)


def newest_step(run_dir: Path) -> int | None:
    """Of the newest checkpoint that is whole."""
    newest = CheckpointFolder(run_dir / "checkpoints").newest()
    return newest.step if newest else None


def check(run_dir: Path, before: int | None, findings: Findings) -> None:
    """Everything that has a checkpoint's name is whole, and nothing that was there is lost."""
    for checkpoint in CheckpointFolder(run_dir / "checkpoints").list():
        problem = find_problem(checkpoint.path)
        if problem:
            findings.losses.append(f"{checkpoint.path}: {problem}")
    now = newest_step(run_dir)
    if before is not None and (now is None or now < before):
        findings.losses.append(f"step {before} was there, and after a kill the newest is {now}")
    if now is not None:
        findings.resumed_at.append(now)


def compare(run_dir: Path, reference: Path, findings: Findings) -> None:
    """The same rows of metrics and the same final parameters as a run that was never killed."""
    rows, wanted = read_metrics(run_dir), read_metrics(reference)
    if [row["step"] for row in rows] != [row["step"] for row in wanted]:
        findings.losses.append("metrics.jsonl has duplicate or missing steps")
    elif rows != wanted:
        first = next(row["step"] for row, other in zip(rows, wanted, strict=True) if row != other)
        findings.losses.append(f"metrics differ from step {first} on")
    ours, theirs = (CheckpointFolder(path / "checkpoints").newest() for path in (run_dir, reference))
    if ours is None or theirs is None or ours.step != theirs.step:
        findings.losses.append("the last checkpoint is missing")
        return
    differing = [name for name in theirs.index if not torch.equal(ours.read(name), theirs.read(name))]
    if differing:
        findings.losses.append(f"{len(differing)} tensors differ, {differing[0]} among them")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Rows without what depends on the clock."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def main() -> None:
    """Kill, look, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4000, help="of the run; it must outlive the kills")
    parser.add_argument("--seed", type=int, default=0, help="of times and places of the kills")
    parser.add_argument("--sync", action="store_true", help="write at once instead of in the background")
    parser.add_argument("--folder", type=Path, required=True, help="must not exist yet")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    folder = options.folder.resolve()
    findings, order = Findings(), random.Random(options.seed)
    prefix, log = make_corpus(folder), folder / "log.txt"
    run_dir, reference = folder / "killed", folder / "reference"
    words = command(prefix, run_dir, options.steps, not options.sync)
    started = time.monotonic()
    for trial in range(options.kills):
        if findings.losses or not kill_once(words, run_dir, log, order, findings):
            break
        print(f"kill {trial + 1}: newest whole checkpoint is of step {newest_step(run_dir)}", flush=True)
    for one in (words, command(prefix, reference, options.steps, not options.sync)):
        if start(one, log).wait(3600):
            findings.losses.append(f"a run that nobody killed failed; see {log}")
    if not findings.losses:
        compare(run_dir, reference, findings)
    print(f"{findings.kills.total()} kills in {time.monotonic() - started:.0f} s: {dict(findings.kills)}")
    print(f"resumed at steps {findings.resumed_at}")
    print("\n".join(findings.losses) or "nothing was lost: metrics and parameters are those of a run never killed")
    sys.exit(bool(findings.losses))


if __name__ == "__main__":
    main()
