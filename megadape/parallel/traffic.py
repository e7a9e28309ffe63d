"""What a piece of code moves between ranks, counted where torch starts a collective and not in our wrappers: whoever
calls it (a layer, its backward pass, DeepSpeed), it is seen.

Bytes are those that reach one rank if the collective runs as a ring, which is what large messages use. With T ranks,
f = (T - 1) / T and n the bytes of the full tensor:

    all_reduce                   2 f n
    all_gather, reduce_scatter     f n
    all_to_all                   what comes from the others
    broadcast, p2p                 n at a rank that receives, 0 at the source
    reduce, gather, scatter      what the rank ends up with from others: n, f n, n / T
    barrier                      0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

NAMESPACES = ("c10d", "_c10d_functional")


@dataclass(frozen=True)
class Row:
    """All calls of one collective over groups of one size."""

    collective: str
    ranks: int
    calls: int
    received: int
    """Bytes."""


@dataclass(frozen=True)
class _Call:
    """One call: the operator's arguments by name, this rank's place in the group, how many ranks there are."""

    arguments: Mapping[str, Any]
    rank: int
    ranks: int

    def bytes(self, name: str) -> int:
        """Bytes of all tensors in one argument."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _flat(self.arguments[name]))

    @property
    def is_root(self) -> bool:
        return bool(self.arguments["root_rank"] == self.rank)

    def of_others(self, total: int) -> int:
        return total * (self.ranks - 1) // self.ranks


Rule = Callable[[_Call], int]


def _flat(value: Any) -> Iterable[Tensor]:  # noqa: ANN401
    if isinstance(value, Tensor):
        yield value
    else:
        for each in value:
            yield from _flat(each)


def _all_to_all(call: _Call) -> int:
    output, sizes = call.arguments["output"], call.arguments["output_split_sizes"]
    if not sizes:
        return call.of_others(call.bytes("output"))
    row = output.numel() // max(1, output.shape[0]) * output.element_size()
    return int(row * (sum(sizes) - sizes[call.rank]))


def _all_to_all_lists(call: _Call) -> int:
    outputs = call.arguments["output_tensors"]
    return sum(each.numel() * each.element_size() for rank, each in enumerate(outputs) if rank != call.rank)


def _reduce_sum(name: str) -> Rule:
    return lambda call: 2 * call.of_others(call.bytes(name))


def _share(name: str) -> Rule:
    return lambda call: call.of_others(call.bytes(name))


def _unless_root(name: str) -> Rule:
    return lambda call: 0 if call.is_root else call.bytes(name)


def _at_root(rule: Rule) -> Rule:
    return lambda call: rule(call) if call.is_root else 0


def _received(name: str) -> Rule:
    return lambda call: call.bytes(name)


def _nothing(call: _Call) -> int:
    return 0


RULES: dict[str, tuple[str, Rule]] = {
    "allreduce_": ("all_reduce", _reduce_sum("tensors")),
    "allreduce_coalesced_": ("all_reduce", _reduce_sum("tensors")),
    "_allgather_base_": ("all_gather", _share("output_tensor")),
    "allgather_": ("all_gather", _share("output_tensors")),
    "allgather_coalesced_": ("all_gather", _share("output_lists")),
    "allgather_into_tensor_coalesced_": ("all_gather", _share("outputs")),
    "_reduce_scatter_base_": ("reduce_scatter", _share("input_tensor")),
    "reduce_scatter_": ("reduce_scatter", _share("input_tensors")),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", _share("inputs")),
    "alltoall_base_": ("all_to_all", _all_to_all),
    "alltoall_": ("all_to_all", _all_to_all_lists),
    "broadcast_": ("broadcast", _unless_root("tensors")),
    "send": ("p2p", _nothing),
    "recv_": ("p2p", _received("tensors")),
    "recv_any_source_": ("p2p", _received("tensors")),
    "reduce_": ("reduce", _at_root(_received("tensors"))),
    "gather_": ("gather", _at_root(_share("output_tensors"))),
    "scatter_": ("scatter", _unless_root("output_tensors")),
    "barrier": ("barrier", _nothing),
    "monitored_barrier_": ("barrier", _nothing),
}
"""c10d operator -> what it is called here, and the bytes that reach this rank."""

LOCAL = frozenset({"check_for_nan", "wait_tensor"})
"""Operators of these namespaces that move nothing."""


class Traffic(TorchDispatchMode):
    """Counts, for the length of a ``with`` block, every collective that this rank takes part in.

    Collectives of the backward pass count where ``backward()`` is called inside the block. A call over one rank is no
    traffic and is left out. Torch's functional collectives (DTensor's) are refused: counting them as nothing would be
    wrong, and nothing here uses them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[tuple[str, int], tuple[int, int]] = {}

    def rows(self) -> list[Row]:
        """One row a collective and group size, by name, then size."""
        return [Row(*key, *self._counts[key]) for key in sorted(self._counts)]

    def total(self) -> int:
        """Bytes that reached this rank."""
        return sum(received for _, received in self._counts.values())

    def __torch_dispatch__(  # torch's own types for these are private
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Count one operator, then run it."""
        if func.namespace in NAMESPACES:
            self._count(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        name = func._schema.name.partition("::")[2]
        if name in LOCAL:
            return
        assert func.namespace == "c10d", f"{func} is a functional collective"
        assert name in RULES, f"no rule says what {func} moves"
        arguments = {spec.name: value for spec, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        group = _unbox(arguments["process_group"])
        call = _Call(arguments, group.rank(), group.size())
        if call.ranks == 1:
            return
        collective, rule = RULES[name]
        calls, received = self._counts.get((collective, call.ranks), (0, 0))
        self._counts[collective, call.ranks] = (calls + 1, received + rule(call))


def _unbox(group: Any) -> dist.ProcessGroup:  # noqa: ANN401
    """Torch hands operators its process group as a script object."""
    unboxed = dist.ProcessGroup.unbox(group) if isinstance(group, torch.ScriptObject) else group
    assert isinstance(unboxed, dist.ProcessGroup)
    return unboxed
