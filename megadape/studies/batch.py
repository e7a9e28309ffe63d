"""Many runs of a study in processes of this machine: chosen by name, told one by one as they end, with what is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from megadape.console import Bars
from megadape.errors import ConfigurationError
from megadape.machine import available_cpus
from megadape.studies.local import Job, run_jobs
from megadape.studies.progress import format_time


class Named(Protocol):
    """A run of a study."""

    @property
    def name(self) -> str:
        """Parts with slashes between them, the seed last."""
        ...


CellT = TypeVar("CellT", bound=Named)


def choose_named(cells: Sequence[CellT], wanted: Sequence[str], file: Path) -> tuple[CellT, ...]:
    """The runs whose names are given, or begin as given up to a slash; all where nothing is.

    Raises:
        ConfigurationError: none is named so.
    """
    names = [name.strip("/") for name in wanted]
    for name in names:
        if not any(_is_named(cell, name) for cell in cells):
            example = cells[0].name
            raise ConfigurationError(
                f"{file} has no run {name!r}; its runs are named as {example}, and {example.rpartition('/')[0]} names "
                "all seeds of one"
            )
    return tuple(cell for cell in cells if not names or any(_is_named(cell, name) for name in names))


def run_batch(
    jobs: Sequence[Job],
    what: str,
    at_once: int | None,
    bars: Bars,
    describe: Callable[[Any], str] = lambda _: "done",
) -> dict[str, str]:
    """Run all jobs, so many at once; one that fails does not stop the others.

    Args:
        jobs: at least one.
        what: they are called, such as "runs".
        at_once: processes; None: one for each GPU, else for each CPU.
        bars: told of progress.
        describe: a few words on what a job returned.

    Returns:
        Jobs that failed, by name -> why.
    """
    slots = device_slots()
    at_once = min(at_once or len(slots), len(jobs))
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or max(1, available_cpus() // at_once)
    bars.message(f"{len(jobs)} {what}, {at_once} at once, {threads} thread{'s' * (threads > 1)} each")
    failures: dict[str, str] = {}
    started, ended = time.monotonic(), 0

    def end(name: str, how: str) -> None:
        nonlocal ended
        ended += 1
        left = (time.monotonic() - started) / ended * (len(jobs) - ended)
        rest = f", about {format_time(left)} left" if ended < len(jobs) else ""
        bars.finish(name)
        bars.message(f"{name}: {how} ({ended} of {len(jobs)}{rest})")

    def fail(name: str, why: str) -> None:
        failures[name] = why.strip()
        end(name, f"failed: {why.strip()}")

    run_jobs(
        jobs,
        at_once,
        threads,
        bars.update,
        on_result=lambda name, value: end(name, describe(value)),
        on_failure=fail,
        slots=[slots[index % len(slots)] for index in range(at_once)],
    )
    return failures


def device_slots() -> list[Mapping[str, str]]:
    """What to put into the environment of runs side by side: a GPU each, or nothing on each CPU."""
    gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
    names = visible if len(visible) == gpus else [str(index) for index in range(gpus)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names] or [{}] * available_cpus()


def _is_named(cell: Named, name: str) -> bool:
    return cell.name == name or cell.name.startswith(f"{name}/")
