"""Jobs in processes of this machine, as many at once as asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from megadape.errors import MegadapeError, TrainingError

Report = Callable[[float, float, str], None]
"""(done, total, a few words): what a job tells while it works."""


@dataclass(frozen=True)
class Job:
    """A function of a module, called as ``function(*arguments, report)`` in a process of its own."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def run_jobs(
    jobs: Sequence[Job], at_once: int, threads: int, progress: Callable[[str, float, float, str], None]
) -> dict[str, Any]:
    """Run jobs, the first ones first, and return what each returned.

    Args:
        jobs: with distinct names.
        at_once: processes.
        threads: of each process.
        progress: told (job, done, total, a few words).

    Raises:
        MegadapeError: a job failed; the others are stopped.
    """
    context = multiprocessing.get_context("spawn")
    waiting, results = list(jobs), dict[str, Any]()
    running: dict[Connection, tuple[str, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                reader, writer = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(job, threads, writer), daemon=True)
                process.start()
                writer.close()
                running[reader] = (job.name, process)
            for ready in wait(list(running)):
                reader = cast(Connection, ready)
                name, process = running[reader]
                kind, value = _receive(reader, process)
                if kind == "progress":
                    progress(name, *value)
                    continue
                if kind == "failed":
                    raise TrainingError(f"{name} failed: {value}")
                results[name] = value
                del running[reader]
                process.join()
    finally:
        for _, process in running.values():
            process.kill()
            process.join()
    return results


def _receive(reader: Connection, process: SpawnProcess) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = reader.recv()
    except EOFError:
        process.join()
        return "failed", f"its process ended with exit code {process.exitcode}"
    return message


def _work(job: Job, threads: int, writer: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # an interruption is the parent's to handle: it stops us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = job.function(*job.arguments, lambda *told: writer.send(("progress", told)))
        writer.send(("done", result))
    except MegadapeError as error:
        writer.send(("failed", str(error)))
    except Exception:
        writer.send(("failed", traceback.format_exc()))
