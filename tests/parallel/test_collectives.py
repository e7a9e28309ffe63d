"""Every collective under autograd equals the same thing written for one process, forward and backward, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megadape.parallel.collectives import copy_to, gather_along, reduce_from, scatter_along
from megadape.parallel.group import ALONE, Group
from megadape.parallel.mesh import Place, join_group
from megadape.parallel.overlap import start_exchange
from megadape.testing import run_distributed

AXES = (0, 1, 2, -1)
Errors = dict[str, float]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turned(x: Tensor) -> Tensor:
    """The same values with other strides."""
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def difference(name: str, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> Errors:
    assert [each.shape for each in got] == [each.shape for each in wanted], name
    return {name: max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))}


def compare(
    name: str,
    group: Group,
    inputs: list[Tensor],
    upstream: list[Tensor],
    distributed: Callable[[Tensor], Tensor],
    plain: Callable[[list[Tensor]], list[Tensor]],
) -> Errors:
    """This rank's output and gradient against those of one process that holds all ranks' inputs.

    Args:
        inputs: of each rank.
        upstream: gradient of each rank's output; the loss is the sum over ranks.
        distributed: on this rank's input.
        plain: all ranks' outputs from all ranks' inputs.
    """
    everybody = [x.clone().requires_grad_() for x in inputs]
    outputs = plain(everybody)
    torch.autograd.backward(outputs, upstream)
    wanted = everybody[group.rank].grad
    assert wanted is not None
    errors = {}
    for form, shape in (("", Tensor.contiguous), (" turned", turned)):
        x = shape(inputs[group.rank]).detach().requires_grad_()
        y = distributed(x)
        (grad,) = torch.autograd.grad(y, x, shape(upstream[group.rank]))
        errors |= difference(f"{name}{form}", (y.detach(), grad), (outputs[group.rank].detach(), wanted))
    return errors


def along_axes(group: Group) -> Errors:
    ranks = group.size
    inputs = [draw(4, 8, 12, seed=rank) for rank in range(ranks)]
    errors = {}
    for axis in AXES:
        long = list(torch.cat(inputs, axis).shape)
        errors |= compare(
            f"gather_along {axis}",
            group,
            inputs,
            [draw(*long, seed=10 + rank) for rank in range(ranks)],
            lambda x, axis=axis: gather_along(group, x, axis),  # type: ignore[misc]
            lambda all_, axis=axis: [torch.cat(all_, axis)] * ranks,  # type: ignore[misc]
        )
        short = inputs[0].chunk(ranks, axis)[0].shape
        errors |= compare(
            f"scatter_along {axis}",
            group,
            inputs,
            [draw(*short, seed=20 + rank) for rank in range(ranks)],
            lambda x, axis=axis: scatter_along(group, x, axis),  # type: ignore[misc]
            lambda all_, axis=axis: list(sum(all_, torch.zeros(())).chunk(ranks, axis)),  # type: ignore[misc]
        )
    return errors


def whole(group: Group) -> Errors:
    ranks = group.size
    alike = [draw(4, 6, seed=0)] * ranks
    different = [draw(4, 6, seed=rank) for rank in range(ranks)]
    gradients = [draw(4, 6, seed=30 + rank) for rank in range(ranks)]

    # a replicated tensor is one tensor: its gradient is the same on all ranks, the sum
    one = alike[0].clone().requires_grad_()
    torch.autograd.backward([one * 1 for _ in range(ranks)], gradients)
    assert one.grad is not None
    errors = {}
    for form, shape in (("", Tensor.contiguous), (" turned", turned)):
        x = shape(alike[0]).detach().requires_grad_()
        (y,) = copy_to(group, x)
        (grad,) = torch.autograd.grad(y, x, shape(gradients[group.rank]))
        errors |= difference(f"copy_to{form}", (y.detach(), grad), (one.detach(), one.grad))

    # after a sum all ranks go on alike, and the loss counts once: rank 0's share here
    errors |= compare(
        "reduce_from",
        group,
        different,
        [gradients[0]] * ranks,
        lambda x: reduce_from(group, x),
        lambda all_: [(sum(all_, torch.zeros(())) - x).detach() + x for x in all_],
    )
    return errors


def several_copies(group: Group) -> Errors:
    """Several replicated tensors in one collective: of any shapes and dtypes, one of them unused."""
    leaves = [draw(3, 4, seed=1), draw(5, seed=2).float(), draw(seed=3), draw(2, 2, seed=4)]
    leaves = [each.requires_grad_() for each in leaves]
    a, b, c, _ = copy_to(group, *leaves)
    scale = group.rank + 1
    (a.square().sum() * scale + (b * scale).sum().double() + c * scale).backward()
    total = group.size * (group.size + 1) / 2
    wanted = [2 * leaves[0] * total, torch.full((5,), total), torch.tensor(total), torch.zeros(2, 2)]
    grads = [each.grad for each in leaves]
    assert all(grad is not None and grad.dtype == leaf.dtype for grad, leaf in zip(grads, leaves, strict=True))
    return difference("several copies", [g for g in grads if g is not None], [each.detach() for each in wanted])


def exchanges(group: Group) -> Errors:
    """Rank r gives rank t a part of r + 2 t rows (so rank 0 gives itself none) and another number of columns."""
    ranks = range(group.size)

    def shape(source: int, to: int) -> tuple[int, int, int]:
        return source + 2 * to, to + 1, 2

    def seed(source: int, to: int) -> int:
        return 100 * source + to

    own = group.rank
    parts = [turned(draw(*shape(own, to), seed=seed(own, to))).requires_grad_() for to in ranks]
    received = start_exchange(group, parts, [shape(source, own) for source in ranks]).wait()
    upstream = [turned(draw(*shape(source, own), seed=1000 + seed(source, own))) for source in ranks]
    grads = torch.autograd.grad(received, parts, upstream)
    wanted = [draw(*shape(source, own), seed=seed(source, own)) for source in ranks]
    back = [draw(*shape(own, to), seed=1000 + seed(own, to)) for to in ranks]
    empty = [x.numel() == 0 for x in wanted]
    keep = [i for i in ranks if not empty[i]]
    there = difference("exchange", [received[i].detach() for i in keep], [wanted[i] for i in keep])
    kept = [i for i in ranks if back[i].numel()]
    return there | difference("exchange back", [grads[i] for i in kept], [back[i] for i in kept])


def everything() -> Errors:
    place = Place.from_environment()
    errors: Errors = {}
    for members in (range(place.world), range(place.rank // 2 * 2, place.rank // 2 * 2 + 2)):
        group = join_group(members, place)
        found = along_axes(group) | whole(group) | several_copies(group) | exchanges(group)
        errors |= {f"{name} over {group.size}": error for name, error in found.items()}
    return errors


def test_values_and_gradients_equal_those_of_one_process() -> None:
    """Over two ranks beside another two, and over four."""
    for errors in run_distributed(4, everything):
        assert len(errors) == 2 * (2 * 2 * len(AXES) + 2 + 2 + 1 + 2)
        assert {name: error for name, error in errors.items() if not error <= 1e-12} == {}


def test_alone_each_returns_its_input() -> None:
    x, y = torch.ones(4, requires_grad=True), torch.ones(2)
    assert copy_to(ALONE, x, y) == (x, y)
    assert reduce_from(ALONE, x) is x
    assert gather_along(ALONE, x, 0) is x
    assert scatter_along(ALONE, x, 0) is x
    assert copy_to(Group((0, 1))) == ()
