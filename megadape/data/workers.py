"""Work spread over processes, results in order.

Each worker holds one end of a pipe and one task at a time. A worker that dies closes its pipe, which the parent sees at
once; a parent that dies closes all pipes, and the workers leave. No more than a few results per worker wait for an
earlier one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from megadape.errors import DataError, MegadapeError

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 4
"""Results per worker that may be under way or wait for an earlier one: bounds the memory."""

_PATIENCE = 5.0
"""Seconds that a worker gets to leave before it is made to."""


@dataclass(frozen=True)
class _Failure:
    """What a worker sends when a task fails: the user's mistake, or the traceback of a broken invariant."""

    mistake: MegadapeError | None
    trace: str


class _Worker:
    """One process and this end of its pipe."""

    def __init__(self, number: int, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.number = number
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        try:
            self._process.start()
        finally:
            theirs.close()

    def send(self, task: object) -> None:
        try:
            self.connection.send(task)
        except OSError as error:
            raise self._death() from error

    def receive(self) -> object:
        try:
            reply = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(reply, _Failure):
            raise reply.mistake or RuntimeError(f"worker {self.number} failed:\n{reply.trace}")
        return reply

    def stop(self, *, at_once: bool) -> None:
        self.connection.close()
        if at_once:
            self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _death(self) -> DataError:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        how = (
            "stopped answering"
            if code is None
            else f"was killed by signal {-code}"
            if code < 0
            else f"ended with exit code {code}"
        )
        hint = "; when the system ran out of memory, use fewer workers" if code == -signal.SIGKILL else ""
        return DataError(f"worker process {self.number} {how}: nothing was written{hint}")


class OrderedWorkers(Generic[Task, Result]):
    """Worker processes that apply the function that ``make()`` gives to tasks; a context manager.

    Args:
        count: processes; with 1 the work is done in this process.
        make: called once in each worker; gives the function of a task.
    """

    def __init__(self, count: int, make: Callable[[], Callable[[Task], Result]]) -> None:
        self._count = count
        self._make = make
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        if self._count > 1:
            try:
                with _interrupts_held_back():
                    for number in range(self._count):
                        self._workers.append(_Worker(number, self._make))
            except BaseException:
                self._stop(at_once=True)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(at_once=kind is not None)

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """The results of the tasks, in their order; the first error, of a task, ``tasks`` or a worker, is raised."""
        if not self._workers:
            return map(self._make(), tasks)
        return self._map(enumerate(tasks))

    def _map(self, tasks: Iterator[tuple[int, Task]]) -> Iterator[Result]:
        idle = list(self._workers)
        busy: dict[Connection, tuple[_Worker, int]] = {}
        done: dict[int, Result] = {}
        following, more = 0, True
        while more or busy:
            while more and idle and len(busy) + len(done) < _AHEAD * self._count:
                number, task = next(tasks, (None, None))
                if number is None:
                    more = False
                else:
                    worker = idle.pop()
                    worker.send(task)
                    busy[worker.connection] = worker, number
            for connection in wait(list(busy)) if busy else ():
                assert isinstance(connection, Connection)
                worker, number = busy.pop(connection)
                done[number] = cast(Result, worker.receive())
                idle.append(worker)
            while following in done:
                yield done.pop(following)
                following += 1

    def _stop(self, *, at_once: bool) -> None:
        for worker in self._workers:
            worker.stop(at_once=at_once)
        self._workers.clear()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C from processes that start here: the terminal sends it to all, the parent alone acts on it."""
    resource_tracker.ensure_running()  # would undo the mask if it were started inside
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """A worker's life: until the parent closes its end of the pipe."""
    # one thread a worker: the tokenizers library would otherwise start one per core in each of them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            function = function or make()
            reply = function(task)
        except MegadapeError as error:
            reply = _Failure(error, "")
        except Exception:
            reply = _Failure(None, traceback.format_exc())
        try:
            connection.send(reply)
        except OSError:
            return
