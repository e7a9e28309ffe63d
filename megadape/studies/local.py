"""Jobs in processes of this machine, as many at once as asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from megadape.errors import MegadapeError, TrainingError

Report = Callable[[float, float, str], None]
"""(done, total, a few words): what a job tells while it works."""

PATIENCE = 30.0
"""Seconds that stopped jobs have to save what they have."""


@dataclass(frozen=True)
class Job:
    """A function of a module, called as ``function(*arguments, report)`` in a process of its own."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Worker:
    """A job that runs."""

    job: Job
    process: SpawnProcess
    slot: Mapping[str, str]


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    threads: int,
    progress: Callable[[str, float, float, str], None],
    *,
    on_result: Callable[[str, Any], None] | None = None,
    on_failure: Callable[[str, str], None] | None = None,
    slots: Sequence[Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Run jobs, the first ones first, and return what each returned.

    Args:
        jobs: with distinct names.
        at_once: processes.
        threads: of each process.
        progress: told (job, done, total, a few words).
        on_result: told (job, result) as soon as a job is done.
        on_failure: told (job, why) when a job failed; the others go on. Without it they are stopped.
        slots: what stands in the environment of the processes that run at once, one each, such as the GPU to use.

    Raises:
        MegadapeError: a job failed, and there is no ``on_failure``.
    """
    context = multiprocessing.get_context("spawn")
    waiting, results = list(jobs), dict[str, Any]()
    free = list(slots or [{}] * at_once)
    running: dict[Connection, Worker] = {}
    try:
        while waiting or running:
            while waiting and free and len(running) < at_once:
                job, slot = waiting.pop(0), free.pop(0)
                reader, writer = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(job, threads, slot, writer), daemon=True)
                process.start()
                writer.close()
                running[reader] = Worker(job, process, slot)
            for ready in wait(list(running)):
                reader = cast(Connection, ready)
                worker = running[reader]
                kind, value = _receive(reader, worker.process)
                if kind == "progress":
                    progress(worker.job.name, *value)
                    continue
                if kind == "failed" and on_failure is None:
                    raise TrainingError(f"{worker.job.name} failed: {value}")
                del running[reader]
                worker.process.join()
                free.append(worker.slot)
                if kind == "failed":
                    assert on_failure is not None
                    on_failure(worker.job.name, value)
                    continue
                results[worker.job.name] = value
                if on_result is not None:
                    on_result(worker.job.name, value)
    finally:
        _stop([worker.process for worker in running.values()])
    return results


def _stop(processes: Iterable[SpawnProcess]) -> None:
    """End processes: politely, so that runs save what they have, and after a while by force."""
    left = list(processes)
    for process in left:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in left:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def _receive(reader: Connection, process: SpawnProcess) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = reader.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        return "failed", f"its process ended with exit code {process.exitcode}"
    return message


def _work(job: Job, threads: int, slot: Mapping[str, str], writer: Connection) -> None:
    os.environ.update({"OMP_NUM_THREADS": str(threads), **slot})
    # an interruption is the parent's to handle: it stops us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = job.function(*job.arguments, lambda *told: writer.send(("progress", told)))
        writer.send(("done", result))
    except BrokenPipeError:
        return  # the parent is gone, and nobody is left to tell
    except MegadapeError as error:
        writer.send(("failed", str(error)))
    except Exception:
        writer.send(("failed", traceback.format_exc()))
