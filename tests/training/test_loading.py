"""Readers give the batches of the pure map from any position on, say what went wrong, and end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import pytest
import torch

from megadape.data import DataSettings, LoaderSettings, Samples, micro_batches, open_training_samples
from megadape.data.loader import step_indices
from megadape.errors import ConfigurationError, DataError, TrainingError
from megadape.training.loading import ProcessReader, reading_ahead

CPU = torch.device("cpu")
COUNT, GLOBAL, MICRO, LENGTH = 42, 8, 2, 16
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture
def reopen(corpus: Path) -> partial[Samples]:
    return partial(open_training_samples, DataSettings(prefix=corpus, split="1"), LENGTH, COUNT, 1)


def steps(consumed: int = 0, rank: int = 0, ranks: int = 1) -> Iterator[np.ndarray]:
    return step_indices(COUNT, consumed, GLOBAL, MICRO, rank, ranks)


@pytest.mark.parametrize(
    ("loader", "places"),
    [
        (LoaderSettings(), [(0, 0), (16, 1), (40, 0)]),
        (LoaderSettings(prefetch=1), [(8, 0)]),
        (LoaderSettings(workers=2), [(16, 1)]),
    ],
    ids=str,
)
def test_readers_give_the_batches_of_the_map(
    loader: LoaderSettings, places: list[tuple[int, int]], reopen: partial[Samples]
) -> None:
    samples, before = reopen(), torch.get_rng_state()
    for consumed, rank in places:
        wanted = list(micro_batches(samples, consumed, GLOBAL, MICRO, rank, 2))
        with reading_ahead(loader, samples, reopen, steps(consumed, rank, 2), CPU) as batches:
            got = list(batches)
        assert [tuple(batch.shape) for batch in got] == [(2, MICRO, LENGTH + 1)] * (len(wanted) // 2)
        assert [micro for batch in got for micro in batch.tolist()] == [micro.tolist() for micro in wanted]
    assert torch.equal(torch.get_rng_state(), before)  # dropout would draw other numbers after a resume
    assert not multiprocessing.active_children()
    assert "reader" not in {thread.name for thread in threading.enumerate()}


class Broken:
    """Samples of which one cannot be read."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, k: SupportsIndex) -> np.ndarray:
        if k == 20:
            raise DataError("sample 20 cannot be read")
        return np.full(LENGTH + 1, k)


def test_an_error_of_the_thread_comes_where_its_batch_would(reopen: partial[Samples]) -> None:
    with reading_ahead(LoaderSettings(), Broken(), reopen, steps(), CPU) as batches:
        assert [next(batches)[0, 0, 0].item() for _ in range(2)] == [0, 8]
        for _ in range(2):
            with pytest.raises(DataError, match="sample 20 cannot be read"):
                next(batches)


def test_readers_end_when_nobody_takes_what_they_read(reopen: partial[Samples]) -> None:
    with reading_ahead(LoaderSettings(prefetch=1), reopen(), reopen, steps(), CPU) as batches:
        next(batches)
        assert "reader" in {thread.name for thread in threading.enumerate()}
    assert "reader" not in {thread.name for thread in threading.enumerate()}


def test_an_error_of_a_process_is_one_sentence(tmp_path: Path) -> None:
    reopen = partial(open_training_samples, DataSettings(prefix=tmp_path / "gone"), LENGTH, COUNT, 1)
    with (
        reading_ahead(LoaderSettings(workers=1), Broken(), reopen, steps(), CPU) as batches,
        pytest.raises(DataError, match=r"^there is no .*gone\.idx: give the prefix"),
    ):
        next(batches)
    assert not multiprocessing.active_children()


def test_processes_do_not_heed_what_stops_a_run_but_their_death_is_told(reopen: partial[Samples]) -> None:
    wanted = [batch.tolist() for batch in micro_batches(reopen(), 0, GLOBAL, MICRO)]
    heard = []
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in SIGNALS}
    try:
        with reading_ahead(LoaderSettings(workers=1, prefetch=1), Broken(), reopen, steps(), CPU) as batches:
            (process,) = multiprocessing.active_children()
            assert process.pid is not None
            got = []
            for number in SIGNALS:  # at once, while it is still starting, and later
                os.kill(process.pid, number)
                os.kill(os.getpid(), number)
                got += next(batches).tolist()
            assert got == wanted[: len(got)]
            assert heard == list(SIGNALS)
            os.kill(process.pid, signal.SIGKILL)
            # in a batch's place; or, by torch, wherever this process is when it hears
            with pytest.raises((TrainingError, RuntimeError), match=r"reader process failed|is killed by signal"):
                list(batches)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_hangs_is_killed(reopen: partial[Samples]) -> None:
    reader = ProcessReader(LoaderSettings(workers=1), reopen, steps(), pin=False)
    next(reader)
    (process,) = multiprocessing.active_children()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    reader.close()
    assert not multiprocessing.active_children()


def test_pinned_memory_without_a_gpu_is_refused(reopen: partial[Samples]) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"data\.loader\.pin_memory is true, but this run has no GPU"),
        reading_ahead(LoaderSettings(pin_memory=True), Broken(), reopen, steps(), CPU),
    ):
        pass
