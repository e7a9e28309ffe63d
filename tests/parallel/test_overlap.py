"""Collectives that go on meanwhile give what the others give, and something is computed meanwhile, backward too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from megadape.parallel.collectives import gather_along
from megadape.parallel.group import ALONE, Group, Pending
from megadape.parallel.mesh import Place, join_group
from megadape.parallel.overlap import start_exchange, start_gather
from megadape.testing import run_distributed


class Compute(torch.autograd.Function):
    """Doubles; a log says when."""

    @staticmethod
    def forward(ctx: Any, log: list[str], x: Tensor) -> Tensor:
        ctx.log = log
        log.append("compute")
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        ctx.log.append("compute")
        return None, 2 * grad


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(group: Group, log: list[str], *, meanwhile: bool) -> tuple[Tensor, ...]:
    """What a layer does: gather x, gather y while x is worked on, give the result back; values and gradients."""
    x, y = (draw(3, 4, seed=10 * group.rank + i).requires_grad_() for i in range(2))
    shapes = [(3, rank + 1) for rank in range(group.size)]
    widths = [group.rank + 1] * group.size

    def parts(z: Tensor) -> list[Tensor]:
        return [z[:3, : width[1]] for width in shapes]

    taken = [(3, width) for width in widths]
    if meanwhile:
        first, second = start_gather(group, x, 1), start_gather(group, y, 0)
        worked = Compute.apply(log, *first.wait())
        back = start_exchange(group, parts(worked), taken)
        (other,) = second.wait()
        out = (Compute.apply(log, other).sum(), *back.wait())
    else:
        worked, other = Compute.apply(log, gather_along(group, x, 1)), gather_along(group, y, 0)
        out = (Compute.apply(log, other).sum(), *start_exchange(group, parts(worked), taken).wait())
    log.append("backward")
    grads = torch.autograd.grad(sum(each.sin().sum() for each in out), (x, y))
    return *(each.detach() for each in out), *grads


def observe(monkey: pytest.MonkeyPatch, log: list[str]) -> None:
    """Write down what is started and awaited; a wait for what has come says nothing."""
    for name in ("start_all_gather", "start_reduce_scatter", "start_all_to_all"):
        start = getattr(Group, name)

        def told(group: Group, *words: Any, start: Any = start, name: str = name) -> Pending:
            log.append(name.removeprefix("start_"))
            pending: Pending = start(group, *words)
            pending.__dict__["name"] = name.removeprefix("start_")
            return pending

        monkey.setattr(Group, name, told)
    wait = Pending.wait

    def awaited(pending: Pending) -> tuple[Tensor, ...]:
        log.append(f"wait for {pending.__dict__['name']}")
        return wait(pending)

    monkey.setattr(Pending, "wait", awaited)


def both() -> tuple[list[str], bool]:
    place = Place.from_environment()
    group, log = join_group(range(place.world), place), []
    expected = run(group, [], meanwhile=False)
    with pytest.MonkeyPatch.context() as monkey:
        observe(monkey, log)
        found = run(group, log, meanwhile=True)
    return log, all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_same_bits_and_something_is_computed_meanwhile(ranks: int) -> None:
    for log, alike in run_distributed(ranks, both):
        assert alike
        middle = log.index("backward")
        assert log[:middle] == [
            *("all_gather", "all_gather", "wait for all_gather", "compute", "all_to_all"),
            *("wait for all_gather", "compute", "wait for all_to_all"),
        ]
        back = log[middle + 1 :]
        assert sorted(back) == sorted(each.replace("all_gather", "reduce_scatter") for each in log[:middle])
        # the exchange of gradients goes on while the second part is worked on, and the second scatter meanwhile
        assert back.index("all_to_all") < back.index("compute") < back.index("wait for all_to_all")
        second = len(back) - 1 - back[::-1].index("compute")
        assert back.index("reduce_scatter") < second < back.index("wait for reduce_scatter")


def test_alone_nothing_travels() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    (y,) = start_gather(ALONE, x, 0).wait()
    (z,) = start_exchange(ALONE, [y], [(2, 3)]).wait()
    (grad,) = torch.autograd.grad(z.square().sum(), x)
    assert torch.equal(grad, 2 * x.detach())
