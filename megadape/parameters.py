"""The parameter table: what every parameter of a model declares about itself.

A module declares a parameter by its *full* shape, the function that draws its initial value, the axis along which
tensor parallelism shards it, and whether weight decay applies. Initialisation, weight-decay groups, checkpoints and the
memory plan read this one table. Initial values are drawn for the full tensor from (seed, parameter name) and then
sliced, so that every layout starts from the same model and adding a layer changes no other.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TypeVar

import torch
from torch import Tensor, nn

Init = Callable[[tuple[int, ...], torch.Generator | None], Tensor]
"""Draws a full tensor of the given shape."""


def normal(std: float) -> Init:
    """N(0, std^2)."""
    return lambda shape, generator: torch.randn(shape, generator=generator) * std


def uniform(low: float, high: float) -> Init:
    """U[low, high)."""
    return lambda shape, generator: torch.rand(shape, generator=generator) * (high - low) + low


def fan_in_uniform(fan_in: int) -> Init:
    """U(+-1/sqrt(fan_in)): what ``nn.Linear`` draws for weights and biases by default."""
    return uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))


def constant(value: float) -> Init:
    """The same value everywhere."""
    return lambda shape, generator: torch.full(shape, value)


@dataclass(frozen=True)
class ParameterSpec:
    """What one parameter declares."""

    shape: tuple[int, ...]
    """Full shape, over all tensor-parallel ranks."""

    init: Init

    shard_axis: int | None = None
    """Axis sharded by tensor parallelism; None: replicated."""

    own: slice = field(default_factory=lambda: slice(None))
    """The slice of ``shard_axis`` that this rank holds; of each of its blocks, where there are several."""

    decay: bool = True
    """Whether weight decay applies (not to vectors called bias, nor to norms)."""

    blocks: int = 1
    """Equal parts that ``shard_axis`` is made of, each sharded alike (the mixer's W1: scores, then biases)."""

    def take_own(self, full: Tensor) -> Tensor:
        """This rank's part of a full tensor (a view where there is one block)."""
        if self.shard_axis is None:
            return full
        lead = (slice(None),) * self.shard_axis
        if self.blocks == 1:
            return full[(*lead, self.own)]
        apart = full.unflatten(self.shard_axis, (self.blocks, -1))
        return apart[(*lead, slice(None), self.own)].flatten(self.shard_axis, self.shard_axis + 1)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The full tensor from the parts of all ranks, in rank order; differentiable."""
        if self.shard_axis is None:
            return parts[0]
        if self.blocks == 1:
            return torch.cat(list(parts), dim=self.shard_axis)
        apart = [part.unflatten(self.shard_axis, (self.blocks, -1)) for part in parts]
        return torch.cat(apart, dim=self.shard_axis + 1).flatten(self.shard_axis, self.shard_axis + 1)


class DeclaredModule(nn.Module):
    """A module whose parameters are declared, so that the table knows them."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: dict[str, ParameterSpec] = {}

    def declare(
        self,
        name: str,
        shape: tuple[int, ...],
        init: Init,
        *,
        shard_axis: int | None = None,
        own: slice | None = None,
        decay: bool = True,
        blocks: int = 1,
    ) -> nn.Parameter:
        """Register a parameter: drawn in full from torch's default generator, then sliced to this rank's part; on the
        meta device nothing is drawn."""
        spec = ParameterSpec(shape, init, shard_axis, own or slice(None), decay, blocks)
        full = torch.empty(shape) if torch.get_default_device().type == "meta" else init(shape, None)
        parameter = nn.Parameter(spec.take_own(full).clone())
        self.specs[name] = spec
        self.register_parameter(name, parameter)
        return parameter


def parameter_table(model: nn.Module) -> dict[str, ParameterSpec]:
    """Name -> spec of every parameter, in the order of ``named_parameters``; an undeclared parameter is a broken
    invariant."""
    table: dict[str, ParameterSpec] = {}
    modules = dict(model.named_modules())
    for name, _ in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        assert isinstance(module, DeclaredModule), f"{name} belongs to a module that declares nothing"
        table[name] = module.specs[leaf]
    return table


M = TypeVar("M", bound=nn.Module)


def substitute(module: M, tensors: Mapping[str, Tensor]) -> M:
    """A view of a module that reads other tensors, by name, in place of its parameters; the module stays as it is."""
    view = copy.copy(module)
    view._parameters = {name: tensors.get(name, own) for name, own in module._parameters.items()}  # type: ignore[misc]
    view._modules = {
        name: child and substitute(child, _below(tensors, name)) for name, child in module._modules.items()
    }
    return view


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def seed_of(seed: int, name: str) -> int:
    """A 63-bit seed for one named thing, independent of every other name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def allocate(model: nn.Module, device: torch.device) -> None:
    """Give a model of the meta device memory, without values: ``to_empty``, but that loads sympy, for most of a second.

    Args:
        model: all of its parameters and buffers are contiguous.
        device: where to.
    """
    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draw every parameter from (seed, its name), in full and on the CPU, and keep this rank's part."""
    parameters = dict(model.named_parameters())
    for name, spec in parameter_table(model).items():
        generator = torch.Generator().manual_seed(seed_of(seed, name))
        parameters[name].copy_(spec.take_own(spec.init(spec.shape, generator)))
