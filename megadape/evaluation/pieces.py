"""Evaluation in pieces: each is fed at once, measured by one rank or by all, and kept in a store.

Each rank takes whole pieces: nothing travels, and values are those of a single rank bit for bit, as long as every rank
computes with as many threads. A piece that is more than a rank's fair share of all that is asked for (one long text)
is read by all ranks together, which share the rows of every sequence; sums are then formed in another order, and values
differ by rounding (1e-6 in float32).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from megadape.evaluation.restore import share_rows
from megadape.evaluation.store import Measured, Store
from megadape.evaluation.windows import Windows
from megadape.model import GPT
from megadape.parallel.group import ALONE, Group

Progress = Callable[[int, int], None]
"""Told (tokens fed, tokens to feed) of this rank."""

EVEN_LENGTH = 2048
"""Tokens at which attention costs about as much as the rest of a model: balances ranks, decides nothing else."""


class Piece(Protocol):
    """Some sequences of one length that are fed at once."""

    @property
    def rows(self) -> int:
        """Sequences."""

    @property
    def length(self) -> int:
        """Tokens fed of each."""

    @property
    def digest(self) -> str:
        """Of everything that decides the values but the model."""

    @property
    def shareable(self) -> bool:
        """Whether ranks can share its rows."""

    def measure(self, model: GPT, device: torch.device) -> list[float]:
        """The values, the same on every rank that shares the model's rows."""


@dataclass(frozen=True, eq=False)
class TextPiece:
    """Some windows of a text that are fed at once."""

    stream: np.ndarray
    windows: Windows
    indices: range

    @property
    def rows(self) -> int:
        """See ``Piece``."""
        return len(self.indices)

    @property
    def length(self) -> int:
        """See ``Piece``."""
        return self.windows.length

    @property
    def shareable(self) -> bool:
        """See ``Piece``."""
        return True

    def tokens(self) -> np.ndarray:
        """Inputs and targets: [rows, length + 1]."""
        return np.stack([self.windows.tokens(self.stream, index) for index in self.indices]).astype(np.int64)

    def losses(self, model: GPT, device: torch.device) -> Tensor:
        """Of the scored predictions, in nats: [rows, scored]."""
        return model.last_losses(torch.from_numpy(self.tokens()).to(device), self.windows.scored).double()


def batches(windows: Windows, batch_tokens: int) -> Iterator[range]:
    """Indices of the windows that are fed at once."""
    size = max(1, batch_tokens // windows.length)
    for start in range(0, len(windows.ends), size):
        yield range(start, min(start + size, len(windows.ends)))


@dataclass(frozen=True)
class Worker:
    """The model as this rank holds it, alone and with others."""

    model: GPT
    """Whole, in evaluation mode."""

    device: torch.device
    group: Group = ALONE
    """All ranks of the evaluation."""

    @cached_property
    def shared(self) -> GPT:
        """The same parameters; rows shared among all ranks."""
        return share_rows(self.model, self.group)

    def measure(self, piece: Piece, *, together: bool = False) -> Measured:
        """Measure a piece, alone or together with all ranks."""
        started = time.perf_counter()
        with torch.no_grad():
            values = piece.measure(self.shared if together else self.model, self.device)
        return Measured(tuple(values), time.perf_counter() - started)


def measure_all(
    series: Sequence[Sequence[Piece]], worker: Worker, store: Store | None = None, progress: Progress | None = None
) -> list[list[Measured]]:
    """Measure all pieces that the store has not, over all ranks; a collective.

    Args:
        series: each the pieces of one length and kind.
        worker: this rank.
        store: where pieces are found and kept; None: nowhere.
        progress: of what the store has not.

    Returns:
        As ``series``, the same on every rank.
    """
    group = worker.group
    found: dict[str, Measured] = group.gather_objects(store.read() if store and group.rank == 0 else {})[0]
    plan = deal_pieces(series, group.size, found)
    mine = [(piece, True) for piece in plan.together] + [(piece, False) for piece in plan.dealt[group.rank]]
    total, fed = sum(cost_tokens(piece) for piece, _ in mine), 0
    new: dict[str, Measured] = {}
    for piece, together in mine:
        new[piece.digest] = measured = worker.measure(piece, together=together)
        if store is not None and (group.rank == 0 or not together):
            store.append(piece.digest, measured)
        fed += cost_tokens(piece)
        if progress is not None:
            progress(fed, total)
    # of what all measured together, the first rank's seconds are told
    for other in reversed(group.gather_objects(new)):
        found = found | other
    return [[found[piece.digest] for piece in pieces] for pieces in series]


@dataclass(frozen=True)
class Deal:
    """Who measures what."""

    together: list[Piece]
    dealt: list[list[Piece]]
    """By rank."""


def deal_pieces(series: Sequence[Sequence[Piece]], ranks: int, found: Mapping[str, Measured]) -> Deal:
    """Deal the pieces that are missing, each once: the costliest first, each to the rank that has least to do.

    Which pieces are shared is decided on all of them, so that those that are measured after a kill are measured as they
    would have been before.
    """
    wanted = {piece.digest: piece for pieces in series for piece in pieces}
    total = sum(map(cost, wanted.values()))
    missing = [piece for digest, piece in wanted.items() if digest not in found]
    together = [piece for piece in missing if piece.shareable and cost(piece) * ranks > total]
    alone = [piece for piece in missing if piece not in together]
    dealt: list[list[Piece]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for piece in sorted(alone, key=lambda one: (-cost(one), one.digest)):
        rank = loads.index(min(loads))
        dealt[rank].append(piece)
        loads[rank] += cost(piece)
    # short ones first: a mistake shows early
    return Deal(together, [sorted(own, key=lambda one: (cost(one), one.digest)) for own in dealt])


def cost_tokens(piece: Piece) -> int:
    """Tokens fed."""
    return piece.rows * piece.length


def cost(piece: Piece) -> int:
    """What a piece costs, in units of no meaning."""
    return cost_tokens(piece) * (EVEN_LENGTH + piece.length)


def digest_arrays(kind: str, *parts: np.ndarray) -> str:
    """SHA-256 of some arrays of integers; ``kind`` names what is done with them, and its version."""
    state = sha256(kind.encode())
    for part in parts:
        state.update(f"|{part.shape}|".encode())
        state.update(np.ascontiguousarray(part, "<i8").tobytes())
    return state.hexdigest()
