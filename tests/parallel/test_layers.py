"""Every parallel layer equals torch's plain one in values and gradients, in float64, split along the sequence or not;
and each rank's gradient is complete after the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from megadape.parallel.collectives import copy_to
from megadape.parallel.cross_entropy import cross_entropy, mean_cross_entropy
from megadape.parallel.group import Group
from megadape.parallel.layers import (
    SEQUENCE,
    ColumnParallelLinear,
    LayerNorm,
    RowParallelLinear,
    VocabularyParallelEmbedding,
    own_rows,
)
from megadape.parallel.mesh import Place, join_group
from megadape.parallel.random import own_stream
from megadape.parallel.sharding import WHOLE, Sharding
from megadape.parameters import DeclaredModule, normal, parameter_table
from megadape.testing import run_distributed

BATCH, LENGTH, WIDTH, OUT, ENTRIES = 2, 8, 12, 16, 20
Plain = Callable[[Tensor, dict[str, Tensor]], Tensor]
Errors = dict[str, float]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def part(x: Tensor, tp: Group, axis: int | None) -> Tensor:
    """This rank's equal part along an axis."""
    return x if axis is None else x.chunk(tp.size, axis)[tp.rank].contiguous()


def redrawn(layer: DeclaredModule) -> DeclaredModule:
    """Parameters that are nowhere zero or one, the same for every way to split them."""
    layer.double()
    table = parameter_table(layer)
    for seed, (name, parameter) in enumerate(layer.named_parameters()):
        parameter.data.copy_(table[name].take_own(draw(*table[name].shape, seed=seed)))
    return layer


def compare(
    make: Callable[[Sharding], DeclaredModule], plain: Plain, x: Tensor, tp: Group, split: bool, axes: tuple[Any, Any]
) -> Errors:
    """Output, gradient of the input and of every parameter against the plain form of the whole layer.

    Args:
        make: the layer.
        plain: the same from torch's functions: input, full parameters -> output.
        x: the whole input.
        axes: along which input and output are this rank's part; None: they are whole.
    """
    full = {name: p.detach().requires_grad_() for name, p in redrawn(make(WHOLE)).named_parameters()}
    whole = x.clone().requires_grad_(x.is_floating_point())
    wanted = plain(whole, full)
    upstream = draw(*wanted.shape, seed=50)
    wanted.backward(upstream)

    layer = redrawn(make(Sharding(tp, split)))
    own = part(x, tp, axes[0]).requires_grad_(x.is_floating_point())
    got = layer(own, split)
    got.backward(part(upstream, tp, axes[1]))
    pairs = {"output": (got, part(wanted, tp, axes[1]))}
    if whole.grad is not None and own.grad is not None:
        pairs["input"] = (own.grad, part(whole.grad, tp, axes[0]))
    for (name, parameter), spec in zip(layer.named_parameters(), parameter_table(layer).values(), strict=True):
        assert parameter.grad is not None
        whole_grad = full[name].grad
        assert whole_grad is not None
        pairs[name] = (parameter.grad, spec.take_own(whole_grad))
    assert all(a.shape == b.shape for a, b in pairs.values())
    return {name: float((a - b).abs().max()) for name, (a, b) in pairs.items()}


def linear(x: Tensor, full: dict[str, Tensor]) -> Tensor:
    return functional.linear(x, full["weight"], full.get("bias"))


def layers(tp: Group, split: bool) -> Errors:
    activations = SEQUENCE if split else None
    x, ids = draw(BATCH, LENGTH, WIDTH, seed=40), torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) * 7 % ENTRIES
    init = normal(1.0)
    cases = {
        "column": compare(lambda s: ColumnParallelLinear(WIDTH, OUT, init, s), linear, x, tp, split, (activations, -1)),
        "column without bias": compare(
            lambda s: ColumnParallelLinear(WIDTH, OUT, init, s, bias=False), linear, x, tp, split, (activations, -1)
        ),
        "row": compare(lambda s: RowParallelLinear(WIDTH, OUT, init, s), linear, x, tp, split, (-1, activations)),
        "norm": compare(
            lambda s: LayerNorm(WIDTH, 1e-5, s),
            lambda x, full: functional.layer_norm(x, (WIDTH,), full["weight"], full["bias"], 1e-5),
            x,
            tp,
            split,
            (activations, activations),
        ),
        "embedding": compare(
            lambda s: VocabularyParallelEmbedding(ENTRIES, OUT, init, s),
            lambda ids, full: functional.embedding(ids, full["weight"]),
            ids,
            tp,
            split,
            (None, activations),
        ),
        "block": compare(Mlp, plain_mlp, x, tp, split, (activations, activations)),
    }
    return {f"{case}: {name}": error for case, errors in cases.items() for name, error in errors.items()}


class Mlp(DeclaredModule):
    """Norm, column, row and residual: what a layer of a model is made of, so that partial sums meet."""

    def __init__(self, sharding: Sharding) -> None:
        super().__init__()
        self.norm = LayerNorm(WIDTH, 1e-5, sharding)
        self.up = ColumnParallelLinear(WIDTH, OUT, normal(1.0), sharding)
        self.down = RowParallelLinear(OUT, WIDTH, normal(1.0), sharding)

    def forward(self, x: Tensor, split: bool) -> Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x, split), split)), split)


def plain_mlp(x: Tensor, full: dict[str, Tensor]) -> Tensor:
    y = functional.layer_norm(x, (WIDTH,), full["norm.weight"], full["norm.bias"], 1e-5)
    y = functional.gelu(functional.linear(y, full["up.weight"], full["up.bias"]))
    return x + functional.linear(y, full["down.weight"], full["down.bias"])


def added_rows(tp: Group) -> float:
    """A replicated table that is added to split activations: values, and its whole gradient."""
    table = draw(LENGTH, WIDTH, seed=60).requires_grad_()
    upstream = draw(BATCH, LENGTH, WIDTH, seed=61)
    own = own_rows(table, Sharding(tp, True), True).expand(BATCH, -1, -1)
    own.backward(part(upstream, tp, SEQUENCE))
    assert table.grad is not None
    values = (own - part(table.expand(BATCH, -1, -1), tp, SEQUENCE)).abs().max()
    return float(torch.maximum(values, (table.grad - upstream.sum(0)).abs().max()))


def entropies(tp: Group) -> Errors:
    """Targets in every rank's part; logits of one, and so large that an exponential of them would overflow."""
    targets = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) * 3 % ENTRIES
    assert {int(t) * tp.size // ENTRIES for t in targets.flatten()} == set(range(tp.size))
    errors = {}
    for name, scale in (("moderate", 1.0), ("large", 1e4)):
        logits = (draw(BATCH, LENGTH, ENTRIES, seed=70) * scale).requires_grad_()
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        upstream = draw(BATCH, LENGTH, seed=71)
        losses.backward(upstream)
        own = part(logits.detach(), tp, -1).requires_grad_()
        got = cross_entropy(own, targets, tp)
        got.backward(upstream)
        assert own.grad is not None
        assert logits.grad is not None
        errors[name] = float(((got - losses) / losses.abs().clamp_min(1)).abs().max())
        errors[f"{name}, gradient"] = float((own.grad - part(logits.grad, tp, -1)).abs().max())
        assert torch.equal(own.detach(), part(logits.detach(), tp, -1)), "logits were changed"
    return errors


def mean_entropies(tp: Group) -> Errors:
    """Output layer and loss together, in chunks that divide the tokens and in chunks that do not."""
    tokens = BATCH * LENGTH
    targets = torch.arange(tokens) * 3 % ENTRIES
    hidden, weight = draw(tokens, WIDTH, seed=72).requires_grad_(), draw(ENTRIES, WIDTH, seed=73).requires_grad_()
    wanted = functional.cross_entropy(hidden @ weight.mT, targets)
    (3 * wanted).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    errors = {}
    for chunk in (4, 5, tokens):
        x, own = hidden.detach().clone().requires_grad_(), part(weight.detach(), tp, 0).clone().requires_grad_()
        got = mean_cross_entropy(copy_to(tp, x)[0], own, targets, tp, chunk)
        (3 * got).backward()
        assert x.grad is not None
        assert own.grad is not None
        errors[f"chunks of {chunk}"] = float((got - wanted).abs())
        errors[f"chunks of {chunk}, input"] = float((x.grad - hidden.grad).abs().max())
        errors[f"chunks of {chunk}, weight"] = float((own.grad - part(weight.grad, tp, 0)).abs().max())
    return errors


def entropy_of_bf16(tp: Group) -> Errors:
    """Logits in bf16, widened by the caller: float32's accuracy, gradients in bf16."""
    targets = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) % ENTRIES
    logits = draw(BATCH, LENGTH, ENTRIES, seed=80).bfloat16().requires_grad_()
    losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    losses.sum().backward()
    own = part(logits.detach(), tp, -1).requires_grad_()
    got = cross_entropy(own.float(), targets, tp)
    got.sum().backward()
    assert own.grad is not None
    assert logits.grad is not None
    assert got.dtype == torch.float32
    assert own.grad.dtype == torch.bfloat16
    return {
        "bf16": float((got.flatten() - losses).abs().max()),
        "bf16, gradient": float((own.grad - part(logits.grad, tp, -1)).abs().max()),
    }


def streams(tp: Group) -> dict[str, list[float]]:
    """What each rank draws before, inside and after a stream of its own, and what a recomputed dropout drops."""
    cpu = torch.device("cpu")
    torch.manual_seed(7)
    drawn = {"before": torch.rand(3).tolist()}
    with own_stream(tp, cpu):
        drawn["inside"] = torch.rand(3).tolist()
    drawn["between"] = torch.rand(3).tolist()
    with own_stream(tp, cpu):
        drawn["inside again"] = torch.rand(3).tolist()
    with own_stream(tp, cpu, active=False):
        drawn["not active"] = torch.rand(3).tolist()
    drawn["after"] = torch.rand(3).tolist()

    def drop(x: Tensor) -> Tensor:
        with own_stream(tp, cpu):
            return functional.dropout(x.sin().exp(), 0.5)

    x = torch.ones(64, requires_grad=True)
    y = checkpoint(drop, x, use_reentrant=False)
    y.sum().backward()
    assert x.grad is not None
    drawn["dropped"] = (y == 0).float().tolist()
    drawn["dropped in the backward pass"] = (x.grad == 0).float().tolist()
    return drawn


def everything() -> tuple[Errors, Errors, dict[str, list[float]]]:
    place = Place.from_environment()
    exact: Errors = {}
    rounded: Errors = {}
    everybody = join_group(range(place.world), place)
    pair = join_group([place.rank // 2 * 2, place.rank // 2 * 2 + 1], place)
    for tp in (everybody, pair):
        for split in (False, True):
            exact |= {f"tp {tp.size}, split {split}, {name}": e for name, e in layers(tp, split).items()}
        exact |= {f"tp {tp.size}, cross entropy, {name}": e for name, e in entropies(tp).items()}
        exact |= {f"tp {tp.size}, mean cross entropy, {name}": e for name, e in mean_entropies(tp).items()}
        exact[f"tp {tp.size}, added rows"] = added_rows(tp)
        rounded |= {f"tp {tp.size}, {name}": e for name, e in entropy_of_bf16(tp).items()}
    return exact, rounded, streams(everybody)


def test_layers_equal_plain_ones_and_streams_part_and_meet() -> None:
    """Over four ranks, and over two beside another two."""
    results = run_distributed(4, everything)
    for exact, rounded, _ in results:
        assert {name: error for name, error in exact.items() if not error <= 1e-12} == {}
        assert {name: error for name, error in rounded.items() if not error <= 1e-6} == {}
    drawn = [streams for _, _, streams in results]
    for shared in ("before", "between", "not active", "after"):
        assert all(each[shared] == drawn[0][shared] for each in drawn), shared
    for apart in ("inside", "inside again", "dropped"):
        assert len({tuple(each[apart]) for each in drawn}) == len(drawn), apart
    for each in drawn:
        assert each["inside"] != each["inside again"]
        assert each["dropped"] == each["dropped in the backward pass"]


def test_alone_a_stream_is_the_shared_one() -> None:
    torch.manual_seed(3)
    with own_stream(Group(), torch.device("cpu")):
        inside = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(inside, torch.rand(2))


def test_whole_layers_are_torchs() -> None:
    layer = RowParallelLinear(WIDTH, OUT, normal(1.0))
    plain = nn.Linear(WIDTH, OUT)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(BATCH, LENGTH, WIDTH)
    assert torch.equal(layer(x), plain(x))
