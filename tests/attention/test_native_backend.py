"""The native backend, as attention calls it, equals the reference for every encoding and variant that it takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megadape.attention import VARIANTS, DapeMixer, choose, dape_attention, make_request
from megadape.attention.dispatch import BACKENDS
from megadape.attention.native import Library, Missing, Native, load
from megadape.errors import AttentionError
from megadape.positions import ENCODINGS, DistanceBias, build

TAKEN = [name for name in ENCODINGS if name == "fire" or isinstance(build(name, 2), DistanceBias)]

OPTIONS = {"fire": {"initial_L": 20.0}}
"""So that some rows of FIRE lie past its threshold."""


def test_the_kernels_are_built_here() -> None:
    assert isinstance(load(), Library), load()


def content(batch: int, heads: int, queries: int, keys: int, scale: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, length, 32) for length in (queries, keys, keys)]
    return [(torch.randn(shape, generator=generator) * scale).requires_grad_() for shape in shapes]


@settings(max_examples=60)
@given(
    name=st.sampled_from([*TAKEN, None]),
    variant=st.sampled_from([*VARIANTS, None]),
    causal=st.booleans(),
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 6), st.just(0) | st.integers(4, 70), st.integers(0, 40)),
    scale=st.sampled_from([0.5, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_reference(
    name: str | None, variant: str | None, causal: bool, sizes: tuple[int, int, int, int], scale: float, seed: int
) -> None:
    batch, heads, queries, more = sizes
    if variant == "bias_only" and name in (None, "fire"):
        return
    torch.manual_seed(seed)
    encoding = None if name is None else build(name, heads, head_dim=32, causal=causal, **OPTIONS.get(name, {}))
    mixer = None if variant is None else DapeMixer(heads, 6, variant, with_bias=name is not None)
    tensors = content(batch, heads, queries, queries + more, scale, seed)
    parameters = [p for module in (encoding, mixer) if module is not None for p in module.parameters()]
    results = []
    for backend in ("native", "reference"):
        out = dape_attention(*tensors, bias=encoding, mixer=mixer, causal=causal, backend=backend)
        seed_gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        results.append([out, *torch.autograd.grad(out, [*tensors, *parameters], seed_gradient, allow_unused=True)])
    for got, want in zip(*results, strict=True):
        got, want = (torch.zeros(()) if tensor is None else tensor.double() for tensor in (got, want))
        # in norm, for the sake of LeakyReLU's kink; some gradients are zero in truth
        floor = 1e-4 * max(1.0, scale) ** 2 * max(1, want.numel()) ** 0.5
        assert (got - want).norm() <= 2e-3 * want.norm() + floor


@pytest.mark.parametrize("name", TAKEN)
def test_bfloat16_stays_within_its_rounding(name: str) -> None:
    torch.manual_seed(0)
    encoding, mixer = build(name, 4, head_dim=32), DapeMixer(4, 8)
    tensors = [tensor.detach().bfloat16() for tensor in content(2, 4, 90, 90, 1.0, 0)]
    got = dape_attention(*tensors, bias=encoding, mixer=mixer, backend="native")
    assert got.dtype == torch.bfloat16
    want = dape_attention(*(t.double() for t in tensors), bias=encoding, mixer=mixer, backend="reference")
    assert (got.double() - want).norm() <= 2e-2 * want.norm()


def test_is_the_first_choice_where_it_can() -> None:
    q = torch.zeros(1, 2, 5, 32)
    assert choose(make_request(q, q, q, bias=build("alibi", 2))).name == "native"
    assert choose(make_request(q, q, q, bias=build("kerple_log", 2), mixer=DapeMixer(2))).name == "native"
    assert choose(make_request(q, q, q)).name == "sdpa"
    assert choose(make_request(q, q, q, bias=build("cope", 2, head_dim=32), causal=True)).name != "native"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"q": (1, 2, 5, 40)}, "head dimensions 32 to 128"),
        ({"q": (1, 2, 1, 32)}, "4 queries or more"),
        ({"dropout": 0.5}, "drops no attention weights"),
        ({"bias": torch.zeros(2, 5, 5)}, "biases of the distance alone"),
        ({"bias": build("fire", 2), "mixer": DapeMixer(2, 4, "bias_only")}, "mixes FIRE only where"),
        ({"query_positions": torch.tensor([0, 2, 4, 6, 8])}, "consecutive positions"),
        ({"mixer": DapeMixer(2, 65, with_bias=False)}, "up to 64 hidden units"),
        ({"mixer": DapeMixer(2, with_bias=False).double()}, "mixers in float32"),
    ],
)
def test_what_it_cannot_do_is_said(changes: dict, said: str) -> None:
    q = torch.zeros(changes.pop("q", (1, 2, 5, 32)))
    with pytest.raises(AttentionError, match=f"cannot be used: it .*{said}.* those that can: .*reference"):
        dape_attention(q, q, q, backend="native", **changes)


def test_without_kernels_it_says_so() -> None:
    q = torch.zeros(1, 2, 5, 32)
    native = Native(find=lambda: Missing("the native kernels are not built"))
    assert "not built" in str(native.refuses(make_request(q, q, q, bias=build("alibi", 2))))
    assert list(BACKENDS)[:3] == ["native", "triton", "tiled"]
