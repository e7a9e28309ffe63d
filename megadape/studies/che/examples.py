"""The tasks, each with an example."""

from __future__ import annotations

import torch
from rich.table import Table

from megadape.chomsky import TASKS, Task, build_task
from megadape.studies.che.results import LEVELS


def example_table(length: int, seed: int) -> Table:
    """A row a task: its level, an input of the given length, the answer."""
    table = Table(title=f"tasks, with an input of length {length}", title_justify="left")
    for column in ("task", "level", "input", "answer", "chance"):
        table.add_column(column, no_wrap=column in ("task", "level"))
    for name in TASKS:
        task = build_task(name)
        table.add_row(name, LEVELS[task.level], *write_example(task, length, seed), f"{task.chance:.2f}")
    return table


def write_example(task: Task, length: int, seed: int) -> tuple[str, str]:
    """An input and its answer, in symbols; padding is left out."""
    inputs, targets, mask = task.sample(1, length, torch.Generator().manual_seed(seed))
    answer = targets[0] if mask is None else targets[0][mask[0]]
    return _write(task.alphabet, inputs[0].tolist()), _write(task.answers, answer.tolist())


def _write(alphabet: tuple[str, ...], ids: list[int]) -> str:
    apart = any(len(symbol) > 1 for symbol in alphabet)
    return (" " if apart else "").join(alphabet[number] for number in ids)
