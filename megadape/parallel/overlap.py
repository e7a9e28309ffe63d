"""Collectives that go on while a rank computes, under autograd, forward and backward.

A collective is started at one place of a program and awaited at another; what stands between is computed meanwhile.
Backward it is the other way round: the place where it was awaited starts the collective of the gradients, and the place
where it was started awaits it. Autograd runs backward in the opposite order of forward, so that what stood between is
between them again. All ranks of the group must start their collectives in the same order.

    start_gather      all-gather      / reduce-scatter
    start_exchange    all-to-all      / all-to-all
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from megadape.parallel.group import Group, Pending


class Move(Protocol):
    """A collective and that of its gradients."""

    def forward(self, tensors: Sequence[Tensor]) -> Pending:
        """Start it."""

    def backward(self, grads: Sequence[Tensor]) -> Pending:
        """Start that of the gradients, which come in the shapes of ``tensors``."""


@dataclass(frozen=True)
class _Gather:
    group: Group
    axis: int

    def forward(self, tensors: Sequence[Tensor]) -> Pending:
        (x,) = tensors
        return self.group.start_all_gather(x, self.axis)

    def backward(self, grads: Sequence[Tensor]) -> Pending:
        (grad,) = grads
        return self.group.start_reduce_scatter(grad, self.axis)


@dataclass(frozen=True)
class _Exchange:
    group: Group
    given: Sequence[Sequence[int]]
    taken: Sequence[Sequence[int]]

    def forward(self, tensors: Sequence[Tensor]) -> Pending:
        return self.group.start_all_to_all(tensors, self.taken)

    def backward(self, grads: Sequence[Tensor]) -> Pending:
        return self.group.start_all_to_all(grads, self.given)


class _Start(torch.autograd.Function):
    """Gives tickets, of the shapes of what is sent: only so can gradients that still travel pass through autograd."""

    @staticmethod
    def forward(ctx: Any, journey: Journey, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.journey = journey
        journey.outward = journey.move.forward(tensors)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, *ctx.journey.homeward.wait()


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, journey: Journey, *tickets: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        assert journey.outward is not None
        ctx.journey = journey
        came, journey.outward = journey.outward.wait(), None
        return came

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        journey = ctx.journey
        journey.homeward = journey.move.backward(grads)
        return None, *journey.homeward.tensors


class Journey:
    """One collective that has started."""

    def __init__(self, move: Move, tensors: Sequence[Tensor]) -> None:
        self.move = move
        self.outward: Pending | None = None
        self.homeward: Pending | None = None
        self._tickets: tuple[Tensor, ...] = _Start.apply(self, *tensors)

    def wait(self) -> tuple[Tensor, ...]:
        """What came; to be called once."""
        came: tuple[Tensor, ...] = _Finish.apply(self, *self._tickets)
        return came


def start_gather(group: Group, x: Tensor, axis: int) -> Journey:
    """As ``collectives.gather_along``: the ranks' parts one after another along an axis."""
    return Journey(_Gather(group, axis), (x,))


def start_exchange(group: Group, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Journey:
    """Give every rank its part and take one from each: the shard axis changes; ``shapes`` are those of what comes."""
    return Journey(_Exchange(group, [part.shape for part in parts], shapes), parts)
