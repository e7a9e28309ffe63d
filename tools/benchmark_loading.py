"""How fast a rank's batches come, against what a model takes of them.

    python tools/benchmark_loading.py --workers 0 1 2 --rounds 5

A dataset of random tokens, in documents of random length, is read as training reads it: the steps of one data-parallel
rank, from the same readers. ``direct`` is the same without reading ahead, as much as one process can read at most.
Readers take turns; figures are medians over rounds. What a step needs is computed: the model's operations a token, and
the share of a device's peak that it reaches. The last column is the share of the training process's time that its own
thread would take at that pace (workers: 0), or that taking batches from others does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from megadape.config import load
from megadape.config.run import RunSettings
from megadape.console import make_table
from megadape.data import DataSettings, IndexedDatasetWriter, LoaderSettings, open_training_samples
from megadape.data.loader import read_batch, step_indices
from megadape.model import GPT, count_token_flops
from megadape.training.loading import reading_ahead

ROOT = Path(__file__).parents[1]
DIRECT = -1
"""In place of a number of workers."""


@dataclass(frozen=True)
class Reading:
    """One reader in one round."""

    tokens_per_second: float
    cpu_share: float
    """Seconds of the training process's CPU time for each second of its wall-clock time."""


def write_dataset(prefix: Path, tokens: int, mean_document: int) -> None:
    """Random tokens of 50,000 kinds in documents of exponentially distributed length."""
    draw = np.random.default_rng(0)
    with IndexedDatasetWriter(prefix, "u2") as writer:
        written = 0
        while written < tokens:
            size = 1 + int(draw.exponential(mean_document))
            writer.add_document([draw.integers(0, 50_000, size, dtype=np.uint16)])
            written += size


def needed(run: RunSettings, peak: float, share: float) -> tuple[float, float]:
    """Tokens a second that a device takes, and operations a token."""
    with torch.device("meta"):
        flops = count_token_flops(GPT(run.architecture), run.training.sequence_length).total
    return peak * share / flops, flops


def measure(run: RunSettings, workers: int, steps: int, ranks: int, *, warm: int = 4) -> Reading:
    """Take so many steps of the first rank as fast as they come."""
    training, count = run.training, (steps + warm) * run.training.global_batch_size
    reopen = partial(open_training_samples, run.data, training.sequence_length, count, run.seed)
    samples = reopen()
    numbers = step_indices(count, 0, training.global_batch_size, training.micro_batch_size, 0, ranks)
    if workers == DIRECT:
        return _time((torch.from_numpy(read_batch(samples, step)) for step in numbers), warm)
    loader = run.data.loader.model_copy(update={"workers": workers})
    with reading_ahead(loader, samples, reopen, numbers, torch.device("cpu")) as batches:
        return _time(batches, warm)


def _time(batches: Iterator[Tensor], warm: int) -> Reading:
    for _ in range(warm):
        next(batches)
    wall, cpu, tokens = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        tokens += batch[..., 1:].numel()
    seconds = time.perf_counter() - wall
    return Reading(tokens / seconds, (time.process_time() - cpu) / seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=[str(ROOT / "configs/models/125M.yaml")])
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--prefetch", type=int, default=2, help="steps read ahead")
    parser.add_argument("--ranks", type=int, default=8, help="data-parallel ranks that share a step")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=50_000_000, help="of the dataset")
    parser.add_argument("--document", type=int, default=1000, help="mean tokens of a document")
    parser.add_argument("--peak-flops", type=float, default=989e12, help="of a device; default: H100 in bfloat16")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that a step reaches")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "random"
        write_dataset(prefix, asked.tokens, asked.document)
        run = load(asked.settings, ["run_dir=unused", f"data.prefix={prefix}"])
        data = DataSettings(prefix=prefix, split="1", loader=LoaderSettings(prefetch=asked.prefetch))
        run = run.model_copy(update={"data": data})
        found: dict[int, list[Reading]] = {workers: [] for workers in [DIRECT, *asked.workers]}
        for _ in range(asked.rounds):
            for workers, readings in found.items():
                readings.append(measure(run, workers, asked.steps, asked.ranks))
    report(run, found, *needed(run, asked.peak_flops, asked.mfu), asked)


def report(
    run: RunSettings, found: dict[int, list[Reading]], need: float, flops: float, asked: argparse.Namespace
) -> None:
    """One row a reader."""
    console, rows = Console(width=120 if not sys.stdout.isatty() else None), []
    for workers, readings in found.items():
        speed = statistics.median(reading.tokens_per_second for reading in readings)
        busy = statistics.median(reading.cpu_share for reading in readings)
        name = "direct" if workers == DIRECT else f"{workers} workers"
        rows.append([name, f"{speed:,.0f}", f"{speed / need:.1f}", f"{100 * busy * need / speed:.1f} %"])
    training = run.training
    console.print(
        f"a step needs {need:,.0f} tokens/s on each rank: {flops / 1e9:.3f} GFLOP a token at {asked.mfu:.0%} of "
        f"{asked.peak_flops / 1e12:,.0f} TFLOP/s",
        highlight=False,
    )
    title = f"length {training.sequence_length}, micro-batch {training.micro_batch_size}, {asked.ranks} ranks"
    console.print(make_table(title, ["reader", "tokens/s", "times what is needed", "of the training process"], rows))


if __name__ == "__main__":
    main()
