"""From the position in the data to batches: a pure function and an iterator.

The position is ``consumed_samples`` and nothing else. One optimizer step takes the next ``global_batch`` samples,
whatever the number of ranks and the size of the micro-batch: another layout takes the same samples in the same step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from megadape.data.blend import Samples
from megadape.errors import ConfigurationError
from megadape.settings import Settings


class LoaderSettings(Settings):
    """How a rank reads ahead of its training; which samples a step takes does not depend on it."""

    workers: int = Field(default=0, ge=0, le=256)
    """Processes that read. 0: a thread of the training process, the fastest where files are in memory or come fast;
    while it waits for slow storage, training waits with it, and processes are better."""

    prefetch: int = Field(default=2, ge=1, le=1024)
    """Steps that are read ahead, by each worker."""

    pin_memory: bool | Literal["auto"] = "auto"
    """Whether batches wait in page-locked memory, which a GPU copies from while it computes; auto: where there is a
    GPU."""


def batch_indices(
    consumed_samples: int, global_batch: int, micro_batch: int, rank: int = 0, ranks: int = 1
) -> npt.NDArray[np.int64]:
    """Numbers of the samples that one data-parallel rank takes in one step.

    Args:
        consumed_samples: samples taken by all ranks before this step.
        global_batch: samples of all ranks in one step.
        micro_batch: samples of one rank in one forward pass.
        rank: this data-parallel rank.
        ranks: data-parallel ranks.

    Returns:
        [accumulation, micro_batch]: the micro-batches of the step, in order.
    """
    assert 0 <= rank < ranks
    if global_batch % (micro_batch * ranks):
        raise ConfigurationError(
            f"a global batch of {global_batch} samples is not a multiple of {micro_batch} (micro-batch) x "
            f"{ranks} (data-parallel ranks)"
        )
    step = np.arange(consumed_samples, consumed_samples + global_batch, dtype=np.int64)
    return step.reshape(-1, ranks, micro_batch)[:, rank]


def step_indices(
    samples: int, consumed_samples: int, global_batch: int, micro_batch: int, rank: int = 0, ranks: int = 1
) -> Iterator[npt.NDArray[np.int64]]:
    """``batch_indices`` of one step after the other, as long as there are samples enough for a whole one."""
    for consumed in range(consumed_samples, samples - global_batch + 1, global_batch):
        yield batch_indices(consumed, global_batch, micro_batch, rank, ranks)


def read_batch(samples: Samples, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[.., L + 1]: the samples of an array of numbers [..]."""
    rows = [samples[k] for k in numbers.ravel()]
    return np.stack(rows).reshape(*numbers.shape, -1)


def micro_batches(
    samples: Samples, consumed_samples: int, global_batch: int, micro_batch: int, rank: int = 0, ranks: int = 1
) -> Iterator[npt.NDArray[np.int64]]:
    """This rank's micro-batches [micro_batch, L + 1] from a position on; ends before a step that cannot be filled."""
    for numbers in step_indices(len(samples), consumed_samples, global_batch, micro_batch, rank, ranks):
        yield from read_batch(samples, numbers)
