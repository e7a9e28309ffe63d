"""Some ranks that talk to one another, and what they can say; a group of one says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch import distributed as dist

# torch 2.13 has new names for these two and warns about the old ones
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


@dataclass
class Pending:
    """A collective that may still go on."""

    tensors: tuple[Tensor, ...]
    """What comes: of its shapes already, its values there when ``wait`` has returned."""

    work: dist.Work | None = field(default=None, repr=False)
    sent: Tensor | None = field(default=None, repr=False)
    """Kept until it has left."""

    def wait(self) -> tuple[Tensor, ...]:
        """What came; on a GPU the host goes on, and what it queues from here on waits."""
        if self.work is not None:
            self.work.wait()
        self.work = self.sent = None
        return self.tensors


@dataclass(frozen=True)
class Group:
    """Ranks joined for collectives. Tensors must agree in shape and dtype over the ranks unless said otherwise."""

    ranks: tuple[int, ...] = (0,)
    """Ranks of the run, in the order of the group."""

    rank: int = 0
    """This process's place in the group."""

    handle: dist.ProcessGroup | None = None
    """Torch's group; None where there is one rank and nothing to say."""

    @property
    def size(self) -> int:
        """How many ranks."""
        return len(self.ranks)

    def all_reduce(self, x: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:  # noqa: ANN401 - torch leaves it untyped
        """The sum (or another reduction) over the ranks, the same bits on each; x, changed in place."""
        if self.size > 1:
            assert x.is_contiguous()
            dist.all_reduce(x, op=op, group=self.handle)
        return x

    def all_gather(self, x: Tensor, axis: int = 0) -> Tensor:
        """The ranks' tensors one after another along an axis."""
        return self.start_all_gather(x, axis).wait()[0]

    def start_all_gather(self, x: Tensor, axis: int = 0) -> Pending:
        """``all_gather`` that goes on meanwhile."""
        if self.size == 1:
            return Pending((x,))
        lead = x.movedim(axis, 0).contiguous()
        out = lead.new_empty(self.size * lead.shape[0], *lead.shape[1:])
        work = _all_gather(out, lead, group=self.handle, async_op=True)
        return Pending((out.movedim(0, axis),), work, lead)

    def reduce_scatter(self, x: Tensor, axis: int = 0) -> Tensor:
        """This rank's share, along an axis, of the sum over the ranks; the axis must divide evenly."""
        return self.start_reduce_scatter(x, axis).wait()[0]

    def start_reduce_scatter(self, x: Tensor, axis: int = 0) -> Pending:
        """``reduce_scatter`` that goes on meanwhile."""
        if self.size == 1:
            return Pending((x,))
        lead = x.movedim(axis, 0).contiguous()
        assert lead.shape[0] % self.size == 0, f"axis of {lead.shape[0]} over {self.size} ranks"
        out = lead.new_empty(lead.shape[0] // self.size, *lead.shape[1:])
        work = _reduce_scatter(out, lead, group=self.handle, async_op=True)
        return Pending((out.movedim(0, axis),), work, lead)

    def start_all_to_all(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Pending:
        """Give every rank its part and take one from each, meanwhile; parts may differ in shape.

        Args:
            parts: what each rank gets.
            shapes: of what each rank gives.
        """
        assert len(parts) == len(shapes) == self.size
        if self.size == 1:
            return Pending(tuple(parts))
        sizes = [torch.Size(shape).numel() for shape in shapes]
        sent = torch.cat([part.reshape(-1) for part in parts])
        received = sent.new_empty(sum(sizes))
        given = [part.numel() for part in parts]
        work = dist.all_to_all_single(received, sent, sizes, given, group=self.handle, async_op=True)
        came = tuple(flat.view(*shape) for flat, shape in zip(received.split(sizes), shapes, strict=True))
        return Pending(came, work, sent)

    def broadcast(self, x: Tensor, source: int = 0) -> Tensor:
        """One rank's tensor on all, in place."""
        if self.size > 1:
            dist.broadcast(x, self.ranks[source], group=self.handle)
        return x

    def send(self, x: Tensor, to: int) -> None:
        """Give a tensor to another rank of the group, which must receive it."""
        dist.send(x.contiguous(), self.ranks[to], group=self.handle)  # gloo hangs on what is not contiguous

    def receive(self, x: Tensor, source: int) -> Tensor:
        """Fill a contiguous tensor with what another rank of the group sends."""
        dist.recv(x, self.ranks[source], group=self.handle)
        return x

    def gather_objects(self, value: object) -> list[Any]:
        """One small picklable object of every rank, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value, group=self.handle)
        return values

    def barrier(self) -> None:
        """Wait for all ranks of the group."""
        if self.size > 1:
            dist.barrier(group=cast(Any, self.handle))


ALONE = Group()
"""A group of this process alone."""
