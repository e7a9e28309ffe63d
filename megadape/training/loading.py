"""A rank's batches, read ahead: by a thread of this process, or by processes of their own.

Reading starts at ``consumed_samples`` and follows the pure map from there to samples, so that nothing needs to be saved
of a loader. Processes know the data by its settings and open it themselves; files are mapped there again. They do not
heed the signals that stop a run, which a job's end sends to all its processes: the training process ends them.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from megadape.data import LoaderSettings, Samples
from megadape.data.loader import read_batch
from megadape.errors import ConfigurationError, MegadapeError, TrainingError

Numbers = npt.NDArray[np.int64]
Open = Callable[[], Samples]
"""Opens the samples; picklable where processes read."""

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PATIENCE = 5.0
"""Seconds for a reader to end by itself: it may hang on a file system."""


@contextmanager
def reading_ahead(
    settings: LoaderSettings, samples: Samples, reopen: Open, steps: Iterator[Numbers], device: torch.device
) -> Iterator[Iterator[Tensor]]:
    """Batches [accumulation, micro-batch, L + 1] of one step after the other; readers live for the length of the block.

    Args:
        settings: how.
        samples: what to read.
        reopen: opens the same samples in another process.
        steps: numbers of the samples of each step.
        device: where the batches are going.

    Raises:
        TrainingError: where a batch is asked for: a reader failed or died.
        ConfigurationError: memory is to be pinned without a GPU.
    """
    pin = settings.pin_memory if settings.pin_memory != "auto" else device.type == "cuda"
    if pin and device.type != "cuda":
        raise ConfigurationError("data.loader.pin_memory is true, but this run has no GPU: set it to auto or false")
    reader: Reader
    if settings.workers:
        reader = ProcessReader(settings, reopen, steps, pin)
    else:
        reader = ThreadReader(settings, samples, steps, device if pin else None)
    try:
        yield reader
    finally:
        reader.close()


def blank_batches(steps: Iterator[Numbers], length: int) -> Iterator[Tensor]:
    """In place of batches, for a rank that needs to know their shape alone."""
    for numbers in steps:
        yield torch.zeros(*numbers.shape, length + 1, dtype=torch.int64)


class Reader(Protocol):
    """Gives batches, and ends."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def __next__(self) -> Tensor: ...

    def close(self) -> None:
        """Stop reading, whatever is being read."""
        ...


class ThreadReader:
    """A thread reads ahead; most of its time goes into numpy, which lets others run meanwhile.

    Args:
        settings: how far ahead.
        samples: what to read.
        steps: numbers of the samples of each step.
        pin_for: pin memory for this GPU.
    """

    def __init__(
        self, settings: LoaderSettings, samples: Samples, steps: Iterator[Numbers], pin_for: torch.device | None
    ) -> None:
        self._samples, self._steps, self._pin_for = samples, steps, pin_for
        self._ready: queue.Queue[Tensor | BaseException] = queue.Queue(settings.prefetch)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._put(item)  # whoever asks again hears it again
            raise item
        return item

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join(PATIENCE)

    def _read(self) -> None:
        try:
            if self._pin_for is not None:
                torch.cuda.set_device(self._pin_for)  # a thread begins on the first GPU
            for numbers in self._steps:
                batch = torch.from_numpy(read_batch(self._samples, numbers))
                if not self._put(batch if self._pin_for is None else batch.pin_memory()):
                    return
            self._put(StopIteration())
        except BaseException as error:
            self._put(error)

    def _put(self, item: Tensor | BaseException) -> bool:
        """Wait for room; False: nobody wants it any more."""
        while not self._closing.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return True
        return False


class ProcessReader:
    """Processes read ahead, each another step, and pass the batches on through shared memory.

    Args:
        settings: how many, how far ahead.
        reopen: opens the samples there.
        steps: numbers of the samples of each step.
        pin: memory of the batches that arrive.
    """

    def __init__(self, settings: LoaderSettings, reopen: Open, steps: Iterator[Numbers], pin: bool) -> None:
        loader = DataLoader(
            _StepReader(reopen),
            batch_size=None,
            sampler=steps,
            num_workers=settings.workers,
            prefetch_factor=settings.prefetch,
            pin_memory=pin,
            # a fork would take over locks that other threads hold
            multiprocessing_context="spawn",
            # else it would draw from the stream that dropout draws from
            generator=torch.Generator(),
        )
        before = set(multiprocessing.active_children())
        # processes inherit what is blocked; a signal that comes meanwhile waits for this process
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            self._batches: Any = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._processes = set(multiprocessing.active_children()) - before

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        try:
            item: Tensor | MegadapeError = next(self._batches)
        except (RuntimeError, OSError, EOFError) as error:
            raise TrainingError(
                f"a reader process failed: {error}; data.loader.workers: 0 reads in the training process"
            ) from error
        if isinstance(item, MegadapeError):
            raise item
        return item

    def close(self) -> None:
        """End the processes; kill those that hang."""
        self._batches._shutdown_workers()  # torch has no public way that an error on its way up does not put off
        for process in self._processes:
            if process.is_alive():
                process.kill()
                process.join(PATIENCE)


class _StepReader(Dataset[Tensor | MegadapeError]):
    """What a process knows."""

    def __init__(self, reopen: Open) -> None:
        self._reopen = reopen
        self._samples: Samples | None = None

    def __getitem__(self, numbers: Numbers) -> Tensor | MegadapeError:
        """The batch; a user's mistake travels as a value, since torch would bury its sentence in a traceback."""
        try:
            self._samples = self._samples or self._reopen()
            return torch.from_numpy(read_batch(self._samples, numbers))
        except MegadapeError as error:
            return error
