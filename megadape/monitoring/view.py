"""What ``megadape watch`` shows of a run: a panel in a terminal, a line elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from megadape.console import number as format_number
from megadape.monitoring.listing import format_age
from megadape.monitoring.rows import number
from megadape.monitoring.standing import Standing
from megadape.training.supervision.durations import format_duration

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 48
"""Characters of a sparkline."""

STYLES = {"running": "green", "done": "green", "stalled": "bold yellow", "failed": "bold red", "resumable": "yellow"}


def panel(standing: Standing, rows: Mapping[int, Mapping[str, Any]]) -> RenderableType:
    """Everything about one run."""
    head = Text.assemble(
        (str(standing.run_dir), "bold"), "  ", (standing.state, STYLES.get(standing.state, "")), "  ", standing.reason
    )
    steps = standing.steps or max(1, standing.step)
    left = "" if standing.seconds_left is None else f"  {format_duration(standing.seconds_left)} left"
    progress = Table.grid(padding=(0, 1))
    share = Text(f"{100 * standing.step / steps:.0f} %  step {standing.step:,}/{steps:,}{left}")
    progress.add_row(ProgressBar(total=steps, completed=standing.step, width=30), share)
    facts = Table.grid(padding=(0, 2))
    for name, value in describe(standing):
        facts.add_row(Text(name, style="dim"), value)
    losses = [loss for step in sorted(rows) if (loss := number(rows[step], "loss")) is not None]
    facts.add_row(Text("loss so far", style="dim"), sparkline(losses))
    return Group(head, progress, facts)


def describe(standing: Standing) -> list[tuple[str, str]]:
    """The newest numbers by name, as text."""
    numbers = standing.numbers
    memory, flops, mfu = (numbers.get(key) for key in ("peak_memory_bytes", "model_flops_per_second", "mfu"))
    speed = f"{format_number(numbers.get('tokens_per_second'), ',.0f')} tokens/s"
    speed += "" if flops is None else f", {flops / 1e9:,.1f} GFLOP/s"
    speed += "" if mfu is None else f", {100 * mfu:.1f} % MFU"
    return [
        ("loss", format_number(numbers.get("loss"), ".4f")),
        ("last validation loss", format_number(numbers.get("validation_loss"), ".4f")),
        ("learning rate", format_number(numbers.get("learning_rate"), ".2e")),
        ("gradient norm", format_number(numbers.get("grad_norm"), ".3f")),
        ("speed", speed),
        ("peak memory", "-" if memory is None else f"{memory / 2**20:,.0f} MiB"),
        ("changed", format_age(standing.age)),
    ]


def line(standing: Standing) -> str:
    """One line on a run."""
    steps = "?" if standing.steps is None else standing.steps
    words = [f"{standing.run_dir}: {standing.state}", f"step {standing.step}/{steps}"]
    shown = [(name, value) for name, value in describe(standing) if not value.startswith("-") and name != "changed"]
    words += [value if name == "speed" else f"{name} {value}" for name, value in shown]
    if standing.seconds_left is not None:
        words.append(f"{format_duration(standing.seconds_left)} left")
    return "  ".join([*words, *filter(None, [standing.reason])])


def ending(standing: Standing) -> str:
    """How it ended, with the exit code."""
    code = "none (it was killed)" if standing.exit_code is None else str(standing.exit_code)
    words = f"{standing.run_dir} ended: {standing.state} after step {standing.step}, exit code {code}"
    return f"{words}: {standing.reason}" if standing.reason else words


def sparkline(values: Sequence[float], width: int = SPARKS) -> str:
    """Numbers as a row of blocks, the mean of each stretch, from the least to the greatest of these."""
    if not values:
        return "-"
    width = min(width, len(values))
    edges = [round(place * len(values) / width) for place in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return BLOCKS[0] * width
    return "".join(BLOCKS[round((value - low) / (high - low) * (len(BLOCKS) - 1))] for value in means)
