"""A run's data, opened together: built once a node, the same on all ranks, or an error on all."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

from megadape.data import RunData, open_run_data
from megadape.errors import DataError, TrainingError
from megadape.parallel.mesh import Mesh
from megadape.training.protocols import Run

T = TypeVar("T")


def open_data(run: Run, mesh: Mesh) -> RunData:
    """The samples of a run; a collective of all ranks.

    The first rank of each node builds the indexes that are not kept in the cache yet, while the others wait; then these
    take them from there. Where nodes share the folder of the cache, several may write the same bytes.

    Raises:
        MegadapeError: on all ranks: the data of some rank is missing, too small, or not what the first rank has.
    """

    def build() -> RunData:
        return open_run_data(
            run.data,
            run.training.sequence_length,
            run.training.steps * run.training.global_batch_size,
            run.validation.sequences if run.validation.every else 0,
            seed=run.seed,
        )

    if mesh.world.size == 1:
        return build()
    hosts = mesh.gather(socket.gethostname())
    builds = hosts.index(hosts[mesh.rank]) == mesh.rank
    built = together(mesh, lambda: build() if builds else None)
    data = together(mesh, lambda: built or build())
    _require_same(mesh, together(mesh, data.fingerprint))
    return data


def together(mesh: Mesh, action: Callable[[], T]) -> T:
    """Do something on every rank, or fail on every rank: a collective that no rank's error leaves waiting."""
    failure: Exception | None = None
    results: list[T] = []
    try:
        results.append(action())
    except Exception as error:
        failure = error
    failures = mesh.gather(None if failure is None else f"{failure or type(failure).__name__}")
    if failure is not None:
        raise failure
    for rank, text in enumerate(failures):
        if text is not None:
            raise TrainingError(f"the data cannot be opened, since rank {rank} cannot: {text}")
    return results[0]


def _require_same(mesh: Mesh, fingerprint: str) -> None:
    fingerprints = mesh.gather(fingerprint)
    others = [rank for rank, each in enumerate(fingerprints) if each != fingerprints[0]]
    if others:
        raise DataError(
            f"rank{'s' * (len(others) > 1)} {', '.join(map(str, others))} would read other data than rank 0: the files "
            "of a dataset differ between nodes; copy them again"
        )
