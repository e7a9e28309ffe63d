"""What the person who typed the command sees: live bars in a terminal, plain lines in a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from megadape.machine import is_first_rank

if TYPE_CHECKING:
    from megadape.data import Progress as PreprocessingProgress

PLAIN_INTERVAL = 10.0
"""Seconds between lines about the same long work in a log file."""


def open_console() -> Console:
    """Standard output; colours and bars only in a terminal, and not where NO_COLOR asks for plain lines.

    Of several ranks the first alone speaks.
    """
    plain = "NO_COLOR" in os.environ or "SLURM_PROCID" in os.environ or not sys.stdout.isatty()
    # a log file has no width of its own: give tables the room that they need
    return Console(
        highlight=False,
        quiet=not is_first_rank(),
        force_terminal=False if plain else None,
        width=1000 if plain else None,
        soft_wrap=True,
    )


class Bars:
    """Progress of named pieces of work, in units that the caller chooses."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self._console = console
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._spoken: dict[str, float] = {}

    def update(self, name: str, done: float, total: float, note: str = "") -> None:
        """How much of a piece of work is done, and a few words on it."""
        if self._bars is None:
            self._speak(name, done, total, note)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def finish(self, name: str) -> None:
        """Take away the bar of a piece of work: of many, those at work are enough to see."""
        self._spoken[name] = float("inf")
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def message(self, text: str) -> None:
        """A sentence, above the bars."""
        self._console.print(text, markup=False)

    def _speak(self, name: str, done: float, total: float, note: str) -> None:
        now = time.monotonic()
        finished = done >= total
        if not finished and now - self._spoken.get(name, 0.0) < PLAIN_INTERVAL:
            return
        if self._spoken.get(name) == float("inf"):
            return
        self._spoken[name] = float("inf") if finished else now
        share = 100 * done / total if total else 100.0
        self.message(f"{name}: {share:3.0f} %  {note}".rstrip())


@contextmanager
def progress_bars(console: Console) -> Iterator[Bars]:
    """Bars for the length of a block."""
    if not console.is_terminal:
        yield Bars(console, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        yield Bars(console, bars)


class TrainingReporter:
    """Tells of a run's steps: a bar with the newest numbers in a terminal, every n-th step as a line elsewhere."""

    def __init__(self, bars: Bars, console: Console, every: int) -> None:
        self._bars, self._console, self._every = bars, console, every

    def message(self, text: str) -> None:
        """A sentence."""
        self._bars.message(text)

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        """The numbers of one step of so many."""
        validation = row.get("validation_loss")
        if self._console.is_terminal:
            note = f"loss {number(row['loss'], '.4f')}  {row['tokens_per_second']:,.0f} tokens/s"
            self._bars.update("training", row["step"], steps, note)
        if validation is not None or (
            not self._console.is_terminal and (row["step"] % self._every == 0 or row["step"] in (1, steps))
        ):
            self._bars.message(format_step(row, steps))


class PreprocessingReporter:
    """Tells of a preprocessing, and keeps the last of its numbers."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self.last: PreprocessingProgress | None = None

    def __call__(self, progress: PreprocessingProgress) -> None:
        """Take note of the progress."""
        self.last = progress
        self._bars.update("preprocessing", progress.fraction, 1.0, preprocessing_note(progress))


def preprocessing_note(progress: PreprocessingProgress) -> str:
    """A few words on a preprocessing."""
    bad = f"  {progress.bad:,} bad" if progress.bad else ""
    return (
        f"{progress.documents:,} documents  {progress.documents_per_second:,.0f} documents/s  "
        f"{progress.megabytes_per_second:.1f} MB/s{bad}"
    )


def format_step(row: Mapping[str, Any], steps: int) -> str:
    """One line on one step."""
    parts = [
        f"step {row['step']:>{len(str(steps))}}/{steps}",
        f"loss {number(row['loss'], '.4f')}",
        f"lr {row['learning_rate']:.2e}",
        f"grad norm {number(row['grad_norm'], '.3f')}",
        f"{row['tokens_per_second']:,.0f} tokens/s",
        f"{row['model_flops_per_second'] / 1e9:,.1f} GFLOP/s"
        + ("" if row.get("mfu") is None else f" ({100 * row['mfu']:.1f} % MFU)"),
        f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB",
    ]
    if row.get("validation_loss") is not None:
        parts.append(f"validation loss {row['validation_loss']:.4f}")
    if row.get("skipped"):
        parts.append(f"skipped: overflow at loss scale {row['loss_scale']:g}")
    return "  ".join(parts)


def number(value: float | None, form: str) -> str:
    """A number that may be missing."""
    return "-" if value is None else format(value, form)


def make_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[str] = ()
) -> Table:
    """A table whose first column is text and whose others are numbers, but for those named in ``words``."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
