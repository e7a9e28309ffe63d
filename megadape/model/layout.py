"""How a forward pass lies: over the ranks, and over positions and documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from megadape.attention import Documents
from megadape.parallel.deal import RowDeal
from megadape.parallel.sharding import Sharding
from megadape.positions import PositionEncoding, RotaryEncoding


@dataclass(frozen=True)
class Layout:
    """How the activations of a forward pass lie over the ranks, and what every layer needs to know of positions."""

    positions: Tensor
    """[s], of the whole sequence; [b, s] where documents are kept apart, each with positions of its own."""

    own: Tensor
    """[n] or [b, n], of the rows at which this rank's attention projects queries and keys: all, but with context
    parallelism."""

    split: bool
    """Whether activations are split along the sequence over tensor-parallel ranks."""

    counted: bool = False
    """Whether ``positions`` are 0, 1, 2, ...; known without a look at them, for which a GPU would be waited for."""

    documents: Documents | None = None
    """Of the whole sequence, where they are kept apart."""

    stretches: Mapping[int, Tensor] = field(default_factory=dict)
    """With documents: length for which a rotary encoding is asked -> [m], of ``own`` flattened, the rows asked for."""


def make_layout(
    encoding: PositionEncoding,
    length: int,
    device: torch.device,
    sharding: Sharding,
    *,
    generator: torch.Generator | None = None,
    documents: Documents | None = None,
) -> Layout:
    """Positions, drawn once for all layers, and where the rows are.

    Args:
        encoding: whose positions; each document gets those that it would have alone.
        length: of the whole sequence.
        device: of the activations.
        sharding: the ranks.
        generator: to draw positions from.
        documents: of the sequences, to be kept apart.
    """
    split = sharding.splits_sequence(length)
    if documents is None or documents.single:
        positions = encoding.positions(length, device, generator)
        return Layout(positions, _own_rows(positions, sharding), split, encoding.counts)
    positions = documents.lay(lambda count: encoding.positions(count, device, generator))
    stretches: dict[int, Tensor] = {}
    if isinstance(encoding, RotaryEncoding):
        stretches = _find_stretches(documents, encoding.geometry.training_length, sharding, device)
    return Layout(positions, _own_rows(positions, sharding), split, False, documents, stretches)


def rotate(encoding: RotaryEncoding, x: Tensor, layout: Layout) -> Tensor:
    """Queries or keys [b, h, n, d] turned, each document as if it came alone."""
    if layout.documents is None:
        return encoding.rotate(x, layout.own, len(layout.positions))
    flat, positions = x.transpose(0, 1).flatten(1, 2)[None], layout.own.flatten()  # one sequence after another
    if len(layout.stretches) == 1:
        turned = encoding.rotate(flat, positions, *layout.stretches)
    else:
        each = layout.stretches.items()
        parts = [encoding.rotate(flat.index_select(2, rows), positions[rows], length) for length, rows in each]
        order = torch.cat([rows for _, rows in each])
        turned = torch.cat(parts, dim=2).index_select(2, order.argsort())
    return turned[0].unflatten(1, layout.own.shape).transpose(0, 1)


def _find_stretches(documents: Documents, trained: int, sharding: Sharding, device: torch.device) -> dict[int, Tensor]:
    """Encodings stretch for texts longer than those trained on; shorter ones are all alike to them."""
    lengths = _own_rows(documents.lay(lambda count: torch.full((count,), max(count, trained))), sharding).flatten()
    return {length: (lengths == length).nonzero()[:, 0].to(device) for length in lengths.unique().tolist()}


def _own_rows(x: Tensor, sharding: Sharding) -> Tensor:
    """The context-parallel rank's rows of [.., s]."""
    context = sharding.context
    return RowDeal(x.shape[-1], context.size).take(x, context.rank, -1) if context.size > 1 else x
