"""The Triton kernels in Triton's interpreter, on the CPU, against the reference. Run by test_triton.py, or by hand:

TRITON_INTERPRET=1 python -m pytest tests/attention/triton_interpreted.py
"""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megadape.attention import VARIANTS, DapeMixer, Documents, choose, make_request
from megadape.attention.apart import Apart
from megadape.attention.gpu import Triton
from megadape.attention.gpu.backend import interpreted
from megadape.attention.gpu.chunks import Budget
from megadape.attention.reference import Reference
from megadape.positions import ENCODINGS, DistanceBias, build

if not interpreted():
    pytest.skip("set TRITON_INTERPRET=1", allow_module_level=True)

TAKEN = [name for name in ENCODINGS if name == "fire" or isinstance(build(name, 2), DistanceBias)]
TINY = Budget(numbers=3 * 16 * 24, rows=8)
"""Several chunks of each sequence."""

SMALL = Triton(TINY, programs=8)


def content(
    batch: int, heads: int, queries: int, keys: int, dim: int = 16, scale: float = 1.0, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, length, dim) for length in (queries, keys, keys)]
    return [(torch.randn(shape, generator=generator) * scale).requires_grad_() for shape in shapes]


def modules(
    name: str | None, variant: str | None, heads: int, hidden: int = 8, causal: bool = True, dim: int = 16
) -> tuple[torch.nn.Module | None, DapeMixer | None]:
    options = {"fire": {"initial_L": 20.0}}
    torch.manual_seed(heads)
    encoding = None if name is None else build(name, heads, head_dim=dim, causal=causal, **options.get(name, {}))
    mixer = None if variant is None else DapeMixer(heads, hidden, variant, with_bias=name is not None)
    return encoding, mixer


def assert_equals_reference(
    tensors: list[Tensor],
    encoding: torch.nn.Module | None,
    mixer: DapeMixer | None,
    *,
    causal: bool = True,
    backend: Triton = SMALL,
    tolerance: float = 1e-4,
    floor: float = 2e-5,
    documents: Documents | None = None,
) -> None:
    """Output and every gradient, in norm, for the sake of LeakyReLU's kink; some gradients are zero in truth."""
    parameters = [p for module in (encoding, mixer) if module is not None for p in module.parameters()]
    wide = [tensor.detach().float().requires_grad_() for tensor in tensors]
    results = []
    for attend, inputs in ((Apart(backend), tensors), (Reference(), wide)):
        request = make_request(*inputs, bias=encoding, mixer=mixer, causal=causal, documents=documents)
        assert attend.refuses(request) is None
        out = attend(request)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        grads = torch.autograd.grad(out, [*inputs, *parameters], upstream, allow_unused=True)
        results.append([out, *grads])
    assert results[0][0].dtype == tensors[0].dtype
    for number, (got, want) in enumerate(zip(*results, strict=True)):
        got, want = (torch.zeros(()) if tensor is None else tensor.double() for tensor in (got, want))
        allowed = tolerance * want.norm() + floor * max(1, want.numel()) ** 0.5
        error = (got - want).norm()
        assert error <= allowed, f"tensor {number}: {error:.2e} of {want.norm():.2e}"


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("variant", [None, *VARIANTS])
@pytest.mark.parametrize("name", [None, "kerple_log"])
def test_every_variant(name: str | None, variant: str | None, causal: bool) -> None:
    if name is None and variant == "bias_only":
        return
    assert_equals_reference(content(1, 3, 10, 13), *modules(name, variant, 3, causal=causal), causal=causal)


@pytest.mark.parametrize(
    ("name", "variant", "causal"),
    [*product(TAKEN, ("concat_residual",), (True,)), ("t5", None, False), ("fire", None, False)],
)
def test_every_encoding(name: str, variant: str | None, causal: bool) -> None:
    assert_equals_reference(content(1, 3, 9, 9), *modules(name, variant, 3, causal=causal), causal=causal)


@pytest.mark.parametrize(("heads", "hidden"), [(1, 1), (12, 32), (16, 8), (20, 40)])
def test_heads_and_hidden_units(heads: int, hidden: int) -> None:
    tensors = content(1, heads, 5, 5, dim=24)
    assert_equals_reference(tensors, *modules("kerple_log", "concat_residual", heads, hidden, dim=24))


@pytest.mark.parametrize(
    ("queries", "keys", "name", "variant"),
    [
        (0, 0, "alibi", "concat_residual"),
        (0, 4, "fire", "concat_residual"),
        (1, 1, "alibi", None),
        (1, 20, "fire", "add_residual"),
        (2, 40, "alibi", "concat"),
        (20, 20, "kerple_log", "concat_residual"),
        (11, 15, "fire", "concat_residual"),
    ],
)
def test_lengths(queries: int, keys: int, name: str, variant: str | None) -> None:
    assert_equals_reference(content(2, 3, queries, keys), *modules(name, variant, 3))


def test_float16_stays_within_its_rounding() -> None:
    tensors = [tensor.detach().half().requires_grad_() for tensor in content(1, 4, 20, 20)]
    encoding, mixer = modules("kerple_log", "concat_residual", 4)
    assert_equals_reference(tensors, encoding, mixer, tolerance=1e-2, floor=1e-2)


def test_scores_beyond_float16_do_not_become_infinite() -> None:
    q, k, v = (tensor.detach().half() for tensor in content(1, 3, 9, 9))
    q, k = 40 * q.abs(), 1000 * k.abs()  # scores above 65504
    encoding, mixer = modules("alibi", "concat_residual", 3)
    assert Triton()(make_request(q, k, v, bias=encoding, mixer=mixer)).isfinite().all()


@pytest.mark.parametrize("variant", ["concat_residual"])
def test_documents_are_kept_apart(variant: str | None) -> None:
    documents = Documents(((4, 1, 5), (2, 8)))
    assert_equals_reference(content(2, 2, 10, 10), *modules("kerple_log", variant, 2), documents=documents)


def test_strided_and_expanded_inputs_and_values_of_another_width() -> None:
    packed = torch.randn(1, 12, 2, 3, 16)  # [b, s, qk, h, d], as a model's projection leaves them
    q, k = packed.permute(2, 0, 3, 1, 4).unbind(0)
    v = torch.randn(1, 1, 12, 20).expand(-1, 3, -1, -1)
    encoding, mixer = modules("kerple_log", "concat_residual", 3)
    assert_equals_reference([x.detach().requires_grad_() for x in (q, k, v)], encoding, mixer)


def test_the_first_choice_for_static_biases_and_mixers_and_not_for_plain_attention() -> None:
    q = torch.zeros(1, 2, 5, 16, dtype=torch.float16)  # the native kernels take none
    assert choose(make_request(q, q, q, bias=build("alibi", 2))).name == "triton"
    assert choose(make_request(q, q, q, bias=build("kerple_log", 2), mixer=DapeMixer(2))).name == "triton"
    assert choose(make_request(q, q, q)).name == "sdpa"


def test_the_same_bits_every_time_and_not_a_number_stays_in_its_row() -> None:
    q, k, v = content(1, 3, 12, 12)
    encoding, mixer = modules("kerple_log", "concat_residual", 3)
    with torch.no_grad():
        q[0, 1, 7, 3] = float("nan")
    request = make_request(q, k, v, bias=encoding, mixer=mixer)
    first, second = (SMALL(request) for _ in range(2))
    assert first[:, :, 7].isnan().all()
    assert not first[:, :, :7].isnan().any()
    assert not first[:, :, 8:].isnan().any()
    assert torch.equal(first.nan_to_num(), second.nan_to_num())


@settings(max_examples=5, deadline=None)
@given(
    name=st.sampled_from(["kerple_log", "fire"]),
    variant=st.sampled_from(["concat_residual", "add_residual", "concat"]),
    causal=st.booleans(),
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 12), st.integers(0, 8)),
    budget=st.builds(Budget, st.integers(1, 4000), st.sampled_from([1, 3, 8, 16])),
    programs=st.sampled_from([1, 64, 528]),
    scale=st.sampled_from([0.5, 3.0]),
)
def test_any_shape(
    name: str,
    variant: str,
    causal: bool,
    sizes: tuple[int, int, int, int],
    budget: Budget,
    programs: int,
    scale: float,
) -> None:
    batch, heads, queries, more = sizes
    tensors = content(batch, heads, queries, queries + more, scale=scale)
    parts = modules(name, variant, heads, causal=causal)
    assert_equals_reference(
        tensors, *parts, causal=causal, backend=Triton(budget, programs), tolerance=2e-3, floor=1e-3
    )
