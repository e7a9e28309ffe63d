"""A dataset's documents in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megadape.data.files import PathLike
from megadape.data.indexed_writer import IndexedDatasetWriter
from megadape.data.maintenance.deriving import DerivedDataset, complete, describe, protect
from megadape.data.maintenance.gathering import Ids, copy_documents
from megadape.data.maintenance.metering import Meter, Tell
from megadape.data.maintenance.stored import find_dataset
from megadape.data.manifest import Operation
from megadape.errors import DataError

_LARGEST_SEED = 2**32 - 1


def shuffle_dataset(prefix: PathLike, output_prefix: PathLike, seed: int, tell: Tell | None = None) -> DerivedDataset:
    """Write the documents of a dataset in an order drawn from a seed, the same on any machine.

    Args:
        prefix: of the dataset.
        output_prefix: of the new one.
        seed: 0 to 2^32 - 1.
        tell: called with the tokens done and all tokens.

    Raises:
        DataError: the dataset is missing or damaged, the seed is too large, or a file would be written over.
    """
    source, out = find_dataset(prefix), Path(output_prefix)
    if source.manifest is not None:
        source.tokenizer()
    protect(out, source.files, source.manifest)
    pair = source.open()
    order = document_order(len(pair.document_index) - 1, seed)
    operation = None
    if source.manifest is not None:
        operation = Operation(name="shuffle", options={"seed": seed}, inputs=(describe(source),))
    with IndexedDatasetWriter(out, pair.dtype) as writer:
        copy_documents(pair, order, writer, Meter(len(pair.tokens), tell))
        return complete(writer, source, operation)


def document_order(documents: int, seed: int) -> Ids:
    """[documents], the numbers of all documents, shuffled."""
    if not 0 <= seed <= _LARGEST_SEED:
        raise DataError(f"{seed} cannot be a seed: choose a number from 0 to {_LARGEST_SEED}")
    order = np.arange(documents, dtype=np.int64)
    # numpy promises the same stream of this generator for all versions and machines, and of no newer one
    np.random.RandomState(seed).shuffle(order)
    return order
