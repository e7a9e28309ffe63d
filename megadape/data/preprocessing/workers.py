"""Work spread over processes, results in order.

Where no other thread runs, workers are forks: they start at once, with what this process has built. Elsewhere they are
started from nothing, since a fork might wait for ever for a lock that another thread held.

Each worker holds one end of a pipe and one task at a time; the next tasks are ready before they are asked for. A worker
that dies closes its pipe, which the parent sees at once; a parent that dies closes all pipes, and the workers leave.
Results that wait for an earlier one are bounded in number and in bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, cast

from megadape.errors import DataError, MegadapeError


class Weighed(Protocol):
    """A result that knows its size."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, about."""
        ...


class Closable(Protocol):
    """Something open."""

    def close(self) -> None:
        """Close it."""
        ...


Method = Literal["fork", "spawn"]
"""How a process is started."""

Task = TypeVar("Task")
Result = TypeVar("Result", bound=Weighed)

_AHEAD = 4
"""Results per worker that may be under way or wait for an earlier one."""

_WAITING_BYTES = 1 << 26
"""While results of so many bytes wait for an earlier one, no further task is given out."""

_PATIENCE = 5.0
"""Seconds that a worker gets to leave before it is made to."""


@dataclass(frozen=True)
class _Failure:
    """What a worker sends when a task fails: the user's mistake, or the traceback of a broken invariant."""

    mistake: MegadapeError | None
    trace: str


class _Worker:
    """One process and this end of its pipe."""

    def __init__(
        self, number: int, method: Method, make: Callable[[], Callable[[Any], Any]], keep_out: Sequence[Closable]
    ) -> None:
        self.number = number
        context = multiprocessing.get_context(method)
        self.connection, theirs = context.Pipe()
        shut = (*keep_out, self.connection) if method == "fork" else ()
        # a fork and a process of its own are different classes, with the same constructor
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, make, shut), daemon=True)  # type: ignore[attr-defined]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # threads of numerical libraries survive forks
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
        hint = ", as the system does when memory runs out: use fewer workers" if code == -signal.SIGKILL else ""
        return DataError(f"worker process {self.number} {how}{hint}")


def start_method() -> Method:
    """How workers are started: as forks where that is safe."""
    return "fork" if sys.platform == "linux" and threading.active_count() == 1 else "spawn"


class OrderedWorkers(Generic[Task, Result]):
    """Worker processes that apply the function that ``make()`` gives to tasks; a context manager.

    Args:
        count: processes; with 1 the work is done in this process.
        make: called once in each worker; gives the function of a task.
        method: how processes are started, see ``start_method``; a worker that is no fork gets ``make`` through a pipe.
        keep_out: what this process holds open and no fork may hold on to, such as locks.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[], Callable[[Task], Result]],
        method: Method,
        keep_out: Sequence[Closable] = (),
    ) -> None:
        self._count = count
        self._make = make
        self._method = method
        self._keep_out = tuple(keep_out)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        if self._count > 1:
            try:
                if self._method == "spawn":
                    resource_tracker.ensure_running()  # would undo the mask if it were started under it
                with _signals_held_back():
                    for number in range(self._count):
                        others = [worker.connection for worker in self._workers]
                        worker = _Worker(number, self._method, self._make, (*self._keep_out, *others))
                        self._workers.append(worker)
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
        return _Deal[Task, Result](self._workers, iter(tasks)).results()

    def _stop(self, *, at_once: bool) -> None:
        for worker in self._workers:
            worker.stop(at_once=at_once)
        self._workers.clear()


class _Deal(Generic[Task, Result]):
    """Tasks on their way to workers, and results on their way back."""

    def __init__(self, workers: list[_Worker], tasks: Iterator[Task]) -> None:
        self._tasks = enumerate(tasks)
        self._idle = list(workers)
        self._most = _AHEAD * len(workers)
        self._ready_at_once = len(workers)
        self._ready: deque[tuple[int, Task]] = deque()
        self._busy: dict[Connection, tuple[_Worker, int]] = {}
        self._done: dict[int, Result] = {}
        self._waiting_bytes = 0
        self._following = 0

    def results(self) -> Iterator[Result]:
        """Everything, in order."""
        self._prepare()
        while self._ready or self._busy:
            self._give_out()
            self._prepare()
            self._collect()
            self._give_out()
            while self._following in self._done:
                result = self._done.pop(self._following)
                self._waiting_bytes -= result.nbytes
                self._following += 1
                yield result

    def _prepare(self) -> None:
        """Have a task ready for every worker."""
        while len(self._ready) < self._ready_at_once and (following := next(self._tasks, None)) is not None:
            self._ready.append(following)

    def _give_out(self) -> None:
        while self._ready and self._idle and self._has_room():
            number, task = self._ready.popleft()
            worker = self._idle.pop()
            worker.send(task)
            self._busy[worker.connection] = worker, number

    def _has_room(self) -> bool:
        if not self._busy and self._following not in self._done:
            return True
        return len(self._busy) + len(self._done) < self._most and self._waiting_bytes < _WAITING_BYTES

    def _collect(self) -> None:
        """Wait for results and take all that are there."""
        for connection in wait(list(self._busy)) if self._busy else ():
            assert isinstance(connection, Connection)
            worker, number = self._busy.pop(connection)
            result = cast(Result, worker.receive())
            self._done[number] = result
            self._waiting_bytes += result.nbytes
            self._idle.append(worker)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Keep Ctrl-C from processes that start here: the terminal sends it to all, the parent alone acts on it. The
    signal that ends a worker is held back until the worker has the system's way of treating it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, make: Callable[[], Callable[[Any], Any]], shut: Sequence[Closable]) -> None:
    """A worker's life: until the parent closes its end of the pipe."""
    for one in shut:  # else other workers would not see the parent's end, nor a new run that the lock is free
        one.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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
