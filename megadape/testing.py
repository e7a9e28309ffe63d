"""Test worlds: functions run on several real ranks.

Shipped, so that users can test their own code in the same way. The ranks are forked from a server process that has
torch, DeepSpeed and megadape imported already: a world of four starts in a fifth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from megadape.faults import ACTIONS, POINTS, InjectedFault, reach
from megadape.faults import VARIABLE as FAULT_VARIABLE

__all__ = ["ACTIONS", "FAULT_VARIABLE", "POINTS", "InjectedFault", "RankFailed", "Silent", "reach", "run_distributed"]

PRELOAD = "megadape.preload"


class Silent:
    """A reporter of runs that says nothing."""

    def message(self, text: str) -> None:
        """Passed over."""

    def step(self, row: Mapping[str, Any], steps: int) -> None:
        """Passed over."""


class RankFailed(AssertionError):  # noqa: N818  (it reads as a sentence in a test's output)
    """A rank raised, died or did not end in time; the message holds every traceback."""


def run_distributed(ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:  # noqa: ANN401
    """Run ``function(*args)`` on several ranks joined by gloo and return what each returned, in rank order.

    Args:
        ranks: how many processes.
        function: importable by name in a new process (a top-level function); it runs with RANK, WORLD_SIZE and
            LOCAL_RANK set
            and ``torch.distributed`` initialised.
        args: picklable.
        timeout: seconds for the whole world.

    Raises:
        RankFailed: with the traceback of every rank that raised; survivors are killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    with tempfile.TemporaryDirectory() as folder:
        processes, pipes = [], []
        for rank in range(ranks):
            reader, writer = context.Pipe(duplex=False)
            target = (rank, ranks, str(Path(folder) / "store"), writer, function, args)
            process = context.Process(target=_run_rank, args=target, daemon=True)
            process.start()
            writer.close()
            processes.append(process)
            pipes.append(reader)
        try:
            return _collect(processes, pipes, time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _run_rank(
    rank: int, ranks: int, store: str, writer: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    import torch
    from torch import distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        result = function(*args)
        dist.barrier()
        # plain pickle: multiprocessing's own would leave tensors in this process, which is about to end
        writer.send_bytes(pickle.dumps((True, result)))
    except BaseException:
        writer.send_bytes(pickle.dumps((False, traceback.format_exc())))
        # the others wait in a collective: leave at once, so that they fail too instead of waiting for the time limit
        writer.close()
        os._exit(1)


def _collect(processes: Sequence[BaseProcess], pipes: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while len(results) + len(failures) < len(pipes):
        pending = [pipe for rank, pipe in enumerate(pipes) if rank not in results and rank not in failures]
        ready = wait(pending, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            failures.update({pipes.index(pipe): "did not end in time" for pipe in pending})
            break
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                succeeded, value = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own process
            except EOFError:
                processes[rank].join(1)
                succeeded, value = False, f"died with exit code {processes[rank].exitcode}"
            (results if succeeded else failures)[rank] = value
        if failures:
            # give the others a moment to say what they saw
            deadline = min(deadline, time.monotonic() + 5)
    if failures:
        raise RankFailed("\n".join(f"--- rank {rank} ---\n{text}" for rank, text in sorted(failures.items())))
    return [results[rank] for rank in range(len(pipes))]
