"""What happens to gradients over a mesh, between the backward pass and the optimizer.

Tensor parallelism sums its own in the backward pass. What is left: the mean over data-parallel ranks, the sum over the
stages that share a parameter, the norm of the whole gradient, clipping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from megadape.model import GPT
from megadape.model.stages import shared_between_stages
from megadape.parallel.group import Group
from megadape.parallel.mesh import Mesh
from megadape.parameters import parameter_table

BUCKET = 32 << 20
"""Bytes that travel together: enough to hide latency, little beside the gradients themselves."""


class Gradients:
    """The gradients of a model on this rank, float32, in ``.grad``.

    Args:
        model: this rank's part.
        mesh: the ranks.
        bucket: bytes of one all-reduce over data-parallel ranks.
    """

    def __init__(self, model: GPT, mesh: Mesh, bucket: int = BUCKET) -> None:
        self.mesh, self.bucket = mesh, bucket
        self.parameters = dict(model.named_parameters())
        shared = shared_between_stages(model)
        groups = {"all": mesh.pp, "ends": mesh.ends}
        # by name: stages hold them in different orders, but must sum them in the same one
        self.shared = [(self.parameters[name], groups[where]) for name, where in sorted(shared.items())]
        # a parameter that several ranks hold alike is one number in the norm
        self.counted = [
            self.parameters[name]
            for name, spec in parameter_table(model).items()
            if (spec.shard_axis is not None or mesh.tp.rank == 0) and (name not in shared or mesh.pp.rank == 0)
        ]

    def complete(self, scale: float = 1.0) -> None:
        """Make every gradient that of the mean loss over the global batch, on every rank.

        Args:
            scale: what the loss was multiplied by; divided out.
        """
        for parameter in self.parameters.values():
            if parameter.grad is None:  # one that this loss does not reach, such as a bias that softmax does not see
                parameter.grad = torch.zeros_like(parameter)
        for bucket in buckets(list(self._tensors()), self.bucket):
            sum_together(bucket, self.mesh.dp)
        for parameter, group in self.shared:
            sum_together([_gradient(parameter)], group)
        self.divide(self.mesh.data_ranks * scale)

    def divide(self, divisor: float) -> None:
        """Divide all gradients."""
        if divisor != 1.0:
            torch._foreach_div_(list(self._tensors()), divisor)

    def norm(self) -> Tensor:
        """The norm of the whole gradient, over all ranks of the model: the same bits on each."""
        norms = torch._foreach_norm([_gradient(parameter) for parameter in self.counted]) if self.counted else ()
        # in float64, so that a sum over thousands of parameters rounds no more than one over a few
        total = torch.zeros((), dtype=torch.float64, device=self.mesh.device)
        for norm in norms:
            total += norm.double().square()
        return self.mesh.model.all_reduce(total).sqrt()

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients so that their norm is at most the largest; 0: leave them."""
        if largest:
            factor = (largest / (norm + 1e-6)).clamp(max=1.0).float()
            torch._foreach_mul_(list(self._tensors()), factor)

    def clear(self) -> None:
        """Forget them."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _tensors(self) -> Iterator[Tensor]:
        return (_gradient(parameter) for parameter in self.parameters.values())


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def buckets(tensors: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors of at most ``size`` bytes together, or a larger one alone."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and filled + tensor.nbytes > size:
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket


def sum_together(tensors: Sequence[Tensor], group: Group) -> None:
    """Replace tensors by their sums over a group, in one collective."""
    if group.size == 1:
        return
    if len(tensors) == 1 and tensors[0].is_contiguous():
        group.all_reduce(tensors[0])
        return
    flat = group.all_reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
