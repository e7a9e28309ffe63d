"""From the position in the data to batches: a pure function and an iterator.

The position is ``consumed_samples`` and nothing else. One optimizer step takes the next ``global_batch`` samples,
whatever the number of ranks and the size of the micro-batch: another layout takes the same samples in the same step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from megadape.data.samples import TokenSamples
from megadape.errors import ConfigurationError


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


def micro_batches(
    samples: TokenSamples, consumed_samples: int, global_batch: int, micro_batch: int, rank: int = 0, ranks: int = 1
) -> Iterator[npt.NDArray[np.int64]]:
    """This rank's micro-batches [micro_batch, L + 1] from a position on; ends before a step that cannot be filled."""
    while consumed_samples + global_batch <= len(samples):
        for numbers in batch_indices(consumed_samples, global_batch, micro_batch, rank, ranks):
            yield np.stack([samples[k] for k in numbers])
        consumed_samples += global_batch
