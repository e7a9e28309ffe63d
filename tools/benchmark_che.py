"""How fast the strings of the Chomsky tasks are drawn, against a training step on them.

    python tools/benchmark_che.py --lengths 40 500 --rounds 5

Drawing a batch and taking a step on it (model of configs/studies/che.yaml, on the CPU) are timed in turns; figures are
medians over rounds. The last column is the share of a step's time that drawing takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from megadape.chomsky import TASKS, build_task
from megadape.chomsky.training import build_model, masked_loss
from megadape.console import make_table
from megadape.machine import choose_threads, keep_freed_memory
from megadape.studies.che.grid import CheCell, read_che

ROOT = Path(__file__).parents[1]


def seconds(work: Callable[[], object]) -> float:
    """What one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(cell: CheCell, batch: int, length: int, rounds: int) -> tuple[float, float]:
    """Median seconds of drawing a batch and of a step on one."""
    task, generator = build_task(cell.task), torch.Generator().manual_seed(0)
    model = build_model(cell.experiment, task, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters())
    sample = task.sample(batch, length, generator)

    def step() -> None:
        optimizer.zero_grad()
        masked_loss(model(sample.inputs, sample.targets.shape[1]), sample).backward()
        optimizer.step()

    drawn, stepped = [], []
    for _ in range(rounds):
        drawn.append(seconds(lambda: task.sample(batch, length, generator)))
        stepped.append(seconds(step))
    return statistics.median(drawn), statistics.median(stepped)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--study", type=Path, default=ROOT / "configs" / "studies" / "che.yaml")
    parser.add_argument("--method", default="rope", help="of the study")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[40])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(choose_threads())
    keep_freed_memory()
    cells = {cell.task: cell for cell in read_che(options.study).cells if cell.method == options.method}
    rows = []
    for length in options.lengths:
        for name in options.tasks:
            drawn, stepped = measure(cells[name], options.batch, length, options.rounds)
            speed = f"{options.batch / drawn:,.0f}"
            rows.append(
                [name, str(length), f"{1e3 * drawn:.2f}", speed, f"{1e3 * stepped:.0f}", f"{drawn / stepped:.2%}"]
            )
    columns = ["task", "length", "ms a batch", "strings/s", "ms a step", "share"]
    title = f"batches of {options.batch}, {options.method}, {torch.get_num_threads()} threads"
    Console().print(make_table(title, columns, rows))


if __name__ == "__main__":
    main()
