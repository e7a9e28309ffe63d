"""Every collective is counted where torch starts it, in the backward pass too; bytes equal those counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed as dist
from torch.utils.checkpoint import checkpoint

from megadape.parallel.collectives import copy_to, gather_along, reduce_from, scatter_along
from megadape.parallel.group import Group
from megadape.parallel.mesh import Place, join_group
from megadape.parallel.overlap import start_exchange
from megadape.parallel.traffic import Row, Traffic
from megadape.testing import run_distributed

RANKS = 3
FLOAT = 4


def rows_of(run: Callable[[], object]) -> list[tuple[str, int, int, int]]:
    with Traffic() as traffic:
        run()
    assert traffic.total() == sum(row.received for row in traffic.rows())
    return [(row.collective, row.ranks, row.calls, row.received) for row in traffic.rows()]


def through_group() -> dict[str, list[tuple[str, int, int, int]]]:
    """What each method of a group of all ranks moves; 12 numbers are 48 bytes."""
    group = join_group(range(RANKS), Place.from_environment())
    x = torch.ones(12)

    def all_to_all() -> None:
        # rank r gives rank t (r + 1) numbers: each gets 1, 2 and 3
        group.start_all_to_all([torch.ones(group.rank + 1)] * RANKS, [(1,), (2,), (3,)]).wait()

    def pass_on() -> None:
        if group.rank == 0:
            group.send(x, 2)
        if group.rank == 2:
            group.receive(torch.empty(12), 0)

    cases: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: group.all_reduce(x.clone()),
        "maximum": lambda: group.all_reduce(x.clone(), dist.ReduceOp.MAX),
        "all_gather": lambda: group.all_gather(x.view(3, 4), 1),
        "reduce_scatter": lambda: group.reduce_scatter(x),
        "all_to_all": all_to_all,
        "broadcast": lambda: group.broadcast(x, 1),
        "p2p": pass_on,
        "barrier": group.barrier,
        "bf16": lambda: group.all_reduce(x.bfloat16()),
        "twice": lambda: (group.all_reduce(x.clone()), group.all_reduce(torch.ones(6))),
        "alone": lambda: Group().all_reduce(x),
    }
    return {name: rows_of(case) for name, case in cases.items()}


def called_directly() -> dict[str, list[tuple[str, int, int, int]]]:
    """Torch's own functions, as DeepSpeed calls them."""
    rank = dist.get_rank()
    x = torch.ones(12)

    def lists(length: int) -> list[torch.Tensor]:
        return [torch.ones(length) for _ in range(RANKS)]

    def around() -> None:
        operations = [
            dist.P2POp(dist.isend, x, (rank + 1) % RANKS),
            dist.P2POp(dist.irecv, torch.empty(12), (rank - 1) % RANKS),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    even = torch.empty(12)
    cases: dict[str, Callable[[], object]] = {
        "asynchronous": lambda: dist.all_reduce(x.clone(), async_op=True).wait(),
        "gather into lists": lambda: dist.all_gather(lists(4), torch.ones(4)),
        "scatter from lists": lambda: dist.reduce_scatter(torch.ones(4), lists(4)),
        "lists to all": lambda: dist.all_to_all(lists(4), lists(4)),
        "even all-to-all": lambda: dist.all_to_all_single(even, x),
        "reduce": lambda: dist.reduce(x.clone(), 1),
        "gather": lambda: dist.gather(torch.ones(4), lists(4) if rank == 1 else None, dst=1),
        "scatter": lambda: dist.scatter(torch.ones(4), lists(4) if rank == 1 else None, src=1),
        "around": around,
    }
    return {name: rows_of(case) for name, case in cases.items()}


def under_autograd() -> dict[str, list[tuple[str, int, int, int]]]:
    """Forward and backward of every collective of 6 x 12 numbers (288 bytes in full)."""
    group = join_group(range(RANKS), Place.from_environment())
    shapes = [(1, 12), (2, 12), (3, 12)]

    def differentiated(function: Callable[[torch.Tensor], torch.Tensor], rows: int = 6) -> Callable[[], object]:
        return lambda: function(torch.ones(rows, 12, requires_grad=True)).square().sum().backward()

    def swap(x: torch.Tensor) -> torch.Tensor:
        # rank r gives r + 1 rows to each
        return torch.cat(start_exchange(group, x.split(group.rank + 1), shapes).wait())

    def recomputed(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda y: gather_along(group, y, 0).square() ** 2, x, use_reentrant=False)

    cases: dict[str, Callable[[], object]] = {
        "copy_to": differentiated(lambda x: copy_to(group, x)[0]),
        "copy_to two": differentiated(lambda x: sum(copy_to(group, x, x[0]), torch.zeros(()))),
        "reduce_from": differentiated(lambda x: reduce_from(group, x)),
        "gather_along": differentiated(lambda x: gather_along(group, x, 0), 2),
        "scatter_along": differentiated(lambda x: scatter_along(group, x, 1)),
        "exchange": differentiated(swap, (group.rank + 1) * RANKS),
        "recomputed": differentiated(recomputed, 2),
        "forward only": lambda: gather_along(group, torch.ones(2, 12), 0),
    }
    return {name: rows_of(case) for name, case in cases.items()}


def everything() -> tuple[dict[str, list[tuple[str, int, int, int]]], ...]:
    return through_group(), called_directly(), under_autograd()


def test_bytes_equal_those_counted_by_hand() -> None:
    results = run_distributed(RANKS, everything)
    for rank, (methods, direct, differentiated) in enumerate(results):
        # f = 2/3
        assert methods == {
            "all_reduce": [("all_reduce", 3, 1, 64)],
            "maximum": [("all_reduce", 3, 1, 64)],
            "all_gather": [("all_gather", 3, 1, 96)],
            "reduce_scatter": [("reduce_scatter", 3, 1, 32)],
            "all_to_all": [("all_to_all", 3, 1, (6 - (rank + 1)) * FLOAT)],
            "broadcast": [("broadcast", 3, 1, 0 if rank == 1 else 48)],
            "p2p": [] if rank == 1 else [("p2p", 3, 1, 48 if rank == 2 else 0)],
            "barrier": [("barrier", 3, 1, 0)],
            "bf16": [("all_reduce", 3, 1, 32)],
            "twice": [("all_reduce", 3, 2, 96)],
            "alone": [],
        }
        assert direct == {
            "asynchronous": [("all_reduce", 3, 1, 64)],
            "gather into lists": [("all_gather", 3, 1, 32)],
            "scatter from lists": [("reduce_scatter", 3, 1, 32)],
            "lists to all": [("all_to_all", 3, 1, 32)],
            "even all-to-all": [("all_to_all", 3, 1, 32)],
            "reduce": [("reduce", 3, 1, 48 if rank == 1 else 0)],
            "gather": [("gather", 3, 1, 32 if rank == 1 else 0)],
            "scatter": [("scatter", 3, 1, 0 if rank == 1 else 16)],
            "around": [("p2p", 3, 2, 48)],
        }
        others = (6 - (rank + 1)) * 12 * FLOAT  # forward: rows that the other ranks give
        back = 2 * (rank + 1) * 12 * FLOAT  # backward: gradients of the rows given to the others
        assert differentiated == {
            "copy_to": [("all_reduce", 3, 1, 384)],
            "copy_to two": [("all_reduce", 3, 1, (72 + 12) * FLOAT * 4 // 3)],
            "reduce_from": [("all_reduce", 3, 1, 384)],
            "gather_along": [("all_gather", 3, 1, 192), ("reduce_scatter", 3, 1, 192)],
            "scatter_along": [("all_gather", 3, 1, 192), ("reduce_scatter", 3, 1, 192)],
            "exchange": [("all_to_all", 3, 2, others + back)],
            "recomputed": [("all_gather", 3, 2, 384), ("reduce_scatter", 3, 1, 192)],
            "forward only": [("all_gather", 3, 1, 192)],
        }


def two_pairs() -> list[Row]:
    place = Place.from_environment()
    everybody = join_group(range(4), place)
    pair = join_group([place.rank // 2 * 2, place.rank // 2 * 2 + 1], place)
    with Traffic() as traffic:
        pair.all_reduce(torch.ones(8))
        everybody.all_reduce(torch.ones(8))
        pair.all_reduce(torch.ones(8))
    everybody.all_reduce(torch.ones(8))  # no longer counted
    return traffic.rows()


def test_groups_of_different_sizes_are_counted_apart() -> None:
    expected = [Row("all_reduce", 2, 2, 64), Row("all_reduce", 4, 1, 48)]
    assert run_distributed(4, two_pairs) == [expected] * 4
