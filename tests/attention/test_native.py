"""The native kernels against the formula, materialised in float64."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from megadape.attention.native import Library, Missing, Tables, load, native_attention, refusal
from megadape.attention.native.library import ISA_VARIABLE
from megadape.errors import AttentionError

loaded = load()
if isinstance(loaded, Missing):
    pytest.skip(loaded.reason, allow_module_level=True)
library: Library = loaded
ISAS = library.supported()
NAMES = ("q", "k", "v", "w1", "w2", "u", "c")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(
    *,
    batch: int = 1,
    heads: int = 3,
    queries: int = 50,
    keys: int | None = None,
    head_dim: int = 32,
    hidden: int = 8,
    causal: bool = True,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs; ``scale`` is about the standard deviation of the scores."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    keys = queries if keys is None else keys
    offsets = max(keys, 1) if causal else max(queries, 1) + max(keys, 1) - 1
    inputs = {
        "q": (normal(batch, heads, queries, head_dim) * scale).to(dtype),
        "k": normal(batch, heads, keys, head_dim).to(dtype),
        "v": normal(batch, heads, keys, head_dim).to(dtype),
        "w1": normal(hidden, heads) / math.sqrt(heads),
        "w2": normal(heads, hidden) / math.sqrt(max(hidden, 1)),
        "u": normal(hidden, offsets),
        "c": normal(heads, offsets) - torch.linspace(0, 5, offsets),
    }
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def native(inputs: dict[str, Tensor], *, causal: bool = True, residual: bool = True, isa: str | None = None) -> Tensor:
    q, k, v, w1, w2, u, c = (inputs[name] for name in NAMES)
    first = 0 if causal else 1 - max(q.shape[2], 1)
    tables = Tables(c, first) if len(w1) == 0 else Tables(c, first, w1, w2, u, residual)
    return native_attention(library, q, k, v, tables, causal=causal, isa=library.instruction_set(isa))


class Leaky(torch.autograd.Function):
    """LeakyReLU whose slope changes at a given place instead of 0, for the derivative alone."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, kink: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.kink = kink
        return functional.leaky_relu(z, 0.01)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return torch.where(z > ctx.kink, grad, 0.01 * grad), None


def formula(inputs: dict[str, Tensor], *, causal: bool = True, residual: bool = True, kink: float = 0.0) -> Tensor:
    q, k, v, w1, w2, u, c = (inputs[name].double() for name in NAMES)
    queries, keys = q.shape[2], k.shape[2]
    S = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    offset = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
    column = (offset if causal else offset + max(queries, 1) - 1).clamp(min=0)
    z = torch.einsum("ch,bhij->bcij", w1, S) + u[:, column]
    logits = torch.einsum("hc,bcij->bhij", w2, Leaky.apply(z, kink)) + c[:, column]
    if residual:
        logits = logits + S
    if causal:
        logits = logits.masked_fill(offset < 0, -math.inf)
        blind = (offset < 0).all(1, keepdim=True)
        return torch.where(blind, 0.0, torch.softmax(logits.masked_fill(blind, 0.0), -1)) @ v
    return torch.softmax(logits, -1) @ v


def gradients(out: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    upstream = torch.randn(out.shape, generator=generator).bfloat16().to(out.dtype)
    grads = torch.autograd.grad(out, list(inputs.values()), upstream, allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if grad is None else grad
        for (name, tensor), grad in zip(inputs.items(), grads, strict=True)
    }


def is_close(got: Tensor, want: Tensor, tolerance: float, largest: float = 1.0, more: float = 0.0) -> bool:
    """In norm: a pre-activation at LeakyReLU's kink may flip single entries of a gradient."""
    # some true gradients are zero; what is rounded on the way there grows with the inputs
    floor = 1e-5 * max(1.0, largest) * math.sqrt(want.numel())
    error = (got.double() - want.double()).norm()
    return bool(error <= tolerance * want.double().norm() + floor + more)


def assert_close(got: Tensor, want: Tensor, tolerance: float, what: str) -> None:
    assert is_close(got, want, tolerance), f"{what}: {(got.double() - want).norm():.2e} of {want.norm():.2e}"


def assert_equals_formula(
    inputs: dict[str, Tensor], tolerance: float, isa: str | None = None, rounding: float = 0.0, **call: Any
) -> None:
    """``rounding``: of pre-activations; one that is nearer to 0 may get either slope."""
    out, want = native(inputs, isa=isa, **call), formula(inputs, **call)
    assert out.dtype == inputs["q"].dtype
    assert_close(out, want, tolerance, "output")
    expected, got = gradients(want, inputs), gradients(out, inputs)
    assert all(got[name].dtype == inputs[name].dtype for name in got)
    largest = max(tensor.abs().max().item() for tensor in inputs.values() if tensor.numel())
    far = [name for name, grad in got.items() if not is_close(grad, expected[name], tolerance, largest)]
    if not far:
        return
    above, below = (gradients(formula(inputs, kink=kink, **call), inputs) for kink in (rounding, -rounding))
    for name in far:
        # what all of those in doubt make together; in the sum some of them cancel each other
        doubt = 3 * (above[name].double() - below[name].double()).norm().item()
        assert is_close(got[name], expected[name], tolerance, largest, doubt), name


@settings(max_examples=60)
@given(data=st.data(), isa=st.sampled_from(ISAS))
def test_float32_equals_the_formula(data: st.DataObject, isa: str) -> None:
    causal, hidden = data.draw(st.booleans()), data.draw(st.integers(0, 20) | st.just(64))
    queries = data.draw(st.integers(1, 80) | st.sampled_from([129, 200]))
    keys = queries + data.draw(st.sampled_from([0, 0, 1, 5, 64, 100]))
    scale = data.draw(st.sampled_from([0.0, 1e-3, 1.0, 5.0, 20.0]))
    torch.set_num_threads(data.draw(st.integers(1, 3)))
    inputs = make(
        batch=data.draw(st.integers(1, 3)),
        heads=data.draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 20, 32])),
        queries=queries,
        keys=keys,
        head_dim=data.draw(st.sampled_from([32, 48, 64, 80, 128])),
        hidden=hidden,
        causal=causal,
        scale=scale,
        seed=data.draw(st.integers(0, 1000)),
    )
    residual = hidden == 0 or data.draw(st.booleans())
    assert_equals_formula(inputs, 1e-4, isa, 1e-5 * scale + 1e-6, causal=causal, residual=residual)


def test_pre_activations_at_the_kink_may_get_either_slope() -> None:
    inputs = make(batch=3, heads=13, queries=200, keys=300, head_dim=48, hidden=64, scale=5.0, seed=762)
    assert_equals_formula(inputs, 1e-4, "portable", 5.1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "shape",
    [
        {"queries": 300, "heads": 12, "head_dim": 64, "hidden": 32},
        {"queries": 37, "keys": 101, "heads": 5, "head_dim": 48, "hidden": 20, "batch": 2},
        {"queries": 70, "heads": 4, "hidden": 0, "causal": False},
        {"queries": 1, "keys": 77, "heads": 16, "hidden": 12},
    ],
)
def test_bfloat16_equals_the_formula_within_its_rounding(shape: dict[str, Any], isa: str) -> None:
    # flipped signs at LeakyReLU's kink dominate the gradients that pass it
    inputs = make(**shape, dtype=torch.bfloat16)
    causal = shape.get("causal", True)
    assert_close(native(inputs, isa=isa, causal=causal), formula(inputs, causal=causal), 1e-2, "output")
    assert_equals_formula(inputs, 8e-2, isa, causal=causal)


@pytest.mark.parametrize("isa", ISAS)
def test_logits_far_above_those_of_the_first_key(isa: str) -> None:
    inputs = make(queries=150, heads=2, hidden=4)
    with torch.no_grad():
        inputs["c"].copy_(torch.linspace(90, 0, 150))  # the later the key, the greater: the reference must follow
        inputs["q"][:, :, 100] *= 60
    assert_equals_formula(inputs, 1e-4, isa)


def test_tables_may_hide_pairs_with_minus_infinity() -> None:
    inputs = make(queries=90, heads=2)
    with torch.no_grad():
        inputs["c"][:, 20:] = -math.inf  # a window of 20 keys
    want = formula(inputs)
    assert_close(native(inputs), want, 1e-5, "output")
    assert_close(gradients(native(inputs), inputs)["k"], gradients(want, inputs)["k"], 1e-5, "k")


@pytest.mark.parametrize("isa", ISAS)
def test_nan_stays_where_the_formula_has_it(isa: str) -> None:
    for name, index in (("q", 40), ("k", 25)):
        inputs = make(queries=70, heads=3, batch=2)
        with torch.no_grad():
            inputs[name][1, 2, index, 5] = math.nan
        out, want = native(inputs, isa=isa), formula(inputs)
        assert want.isnan().any()
        assert torch.equal(out.isnan(), want.isnan())
        assert_close(out.nan_to_num(), want.nan_to_num(), 1e-4, "the other rows")
        got, expected = (gradients(result, inputs)["q"].isnan() for result in (out, want))
        assert got.any()
        assert not (got & ~expected).any()  # 0 x NaN at masked pairs need not spread it


def test_strided_and_expanded_inputs() -> None:
    packed = torch.randn(2, 60, 3, 4, 32)  # [b, s, qkv, h, d], as a model's projection leaves them
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    k = k[:, :1].expand(-1, 4, -1, -1)
    inputs = {**make(heads=4, queries=60), "q": q.requires_grad_(), "k": k.requires_grad_(), "v": v.requires_grad_()}
    assert_equals_formula(inputs, 1e-4)
    out = native(inputs)
    out.backward(torch.ones(()).expand_as(out))
    assert inputs["w1"].grad is not None


@pytest.mark.parametrize("queries", [0, 1, 5])
@pytest.mark.parametrize("keys", [0, 1, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_tiny_lengths_and_rows_without_keys(queries: int, keys: int, causal: bool) -> None:
    inputs = make(queries=queries, keys=keys, causal=causal)
    assert_equals_formula(inputs, 1e-5, causal=causal)
    blind = max(0, queries - keys) if causal else 0
    assert native(inputs, causal=causal)[:, :, :blind].eq(0).all()
    assert native(make(batch=0)).shape == (0, 3, 50, 32)


@pytest.mark.parametrize("residual", [True, False])
def test_parameters_behind_the_tables_learn(residual: bool) -> None:
    heads, hidden, n = 4, 16, 90
    inputs = make(heads=heads, hidden=hidden, queries=n)
    w1_bias, b1, b2, slope = (
        torch.randn(shape, requires_grad=True) for shape in ((hidden, heads), (hidden, 1), (heads, 1), (heads, 1))
    )

    def grads(attention: Any) -> list[Tensor]:
        B = -slope.abs() * torch.log1p(torch.arange(n).float())
        tables = {"u": w1_bias @ B + b1, "c": B + b2 if residual else b2.expand(-1, n)}
        out = attention(inputs | tables, residual=residual)
        return list(torch.autograd.grad(out.double().square().sum(), (w1_bias, b1, slope, b2), allow_unused=True))

    *got, got_b2 = grads(native)
    *want, _ = grads(formula)
    for name, a, b in zip(("w1", "b1", "slope"), got, want, strict=True):
        if b is not None:
            assert_close(a, b, 1e-4, name)
    assert got_b2.abs().max() < 1e-3  # softmax does not see a shift: its true gradient is zero


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_threads_give_the_same_bits_every_time(dtype: torch.dtype) -> None:
    torch.set_num_threads(2)
    inputs = make(heads=4, queries=700, head_dim=32, dtype=dtype)
    first = gradients(native(inputs), inputs)
    for _ in range(3):
        for name, grad in gradients(native(inputs), inputs).items():
            assert torch.equal(grad, first[name]), name


def test_the_scale_is_the_callers() -> None:
    inputs = make()
    tables = Tables(inputs["c"], 0, inputs["w1"], inputs["w2"], inputs["u"])
    out = native_attention(library, inputs["q"], inputs["k"], inputs["v"], tables, scale=0.3)
    stretched = inputs | {"q": inputs["q"] * (0.3 * math.sqrt(32))}
    assert_close(out, formula(stretched), 1e-5, "output")


def test_the_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.instruction_set().name == ISAS[0]
    monkeypatch.setenv(ISA_VARIABLE, "portable")
    assert library.instruction_set().name == "portable"
    monkeypatch.setenv(ISA_VARIABLE, "sse9")
    with pytest.raises(AttentionError, match=r"MEGADAPE_NATIVE_ISA=sse9.*portable"):
        library.instruction_set()


def test_a_library_that_cannot_be_used_gives_the_reason(tmp_path: Path) -> None:
    absent = load(tmp_path / "_kernels.so")
    assert isinstance(absent, Missing)
    assert "not built" in absent.reason
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    unreadable = load(broken)
    assert isinstance(unreadable, Missing)
    assert "cannot be loaded" in unreadable.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"heads": 33}, "1 to 32 heads, not 33"),
        ({"head_dim": 40}, "steps of 16, not 40"),
        ({"head_dim": 144}, "32 to 128"),
        ({"hidden": 65}, "up to 64 hidden units"),
        ({"dtype": torch.float64}, "not in float64"),
        ({"device": torch.device("meta")}, "not on meta"),
    ],
)
def test_refusal_says_what_is_wrong(change: dict[str, Any], reason: str | None) -> None:
    request = {"heads": 12, "head_dim": 64, "hidden": 32, "dtype": torch.float32, "device": torch.device("cpu")}
    answer = refusal(**(request | change))
    assert answer is None if reason is None else reason in (answer or "")
