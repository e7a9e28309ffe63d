"""FIRE through the native kernels, against the encoding and the mixer themselves in float64."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from megadape.attention.mixer import VARIANTS, DapeMixer
from megadape.attention.native.function import Pieces, native_attention
from megadape.attention.native.library import Library, Missing, load
from megadape.attention.native.pieces import fire_pieces
from megadape.attention.tables import Tables
from megadape.positions.base import Geometry, Heads
from megadape.positions.fire import Fire, FireSettings

loaded = load()
if isinstance(loaded, Missing):
    pytest.skip(loaded.reason, allow_module_level=True)
library: Library = loaded
ISAS = library.supported()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass
class Case:
    """An attention call over FIRE with random weights."""

    queries: int = 60
    keys: int = 60
    heads: int = 4
    hidden: int = 16
    """Of the mixer; 0 for none."""

    head_dim: int = 32
    batch: int = 1
    first_position: int = 0
    """Of the keys."""

    causal: bool = True
    variant: str = "concat_residual"
    activation: Literal["relu", "leaky_relu"] = "leaky_relu"
    width: int = 32
    threshold: float = 20.0
    dtype: torch.dtype = torch.float32
    seed: int = 0
    fire: Fire = field(init=False)
    mixer: DapeMixer | None = field(init=False)
    qkv: tuple[Tensor, Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        geometry = Geometry(Heads(self.heads), self.head_dim, self.heads * self.head_dim, self.keys)
        self.fire = FireSettings(width=self.width, activation=self.activation, initial_L=100.0).build(geometry)
        self.mixer = DapeMixer(self.heads, self.hidden, self.variant) if self.hidden else None
        for parameter in [*self.fire.parameters(), *(self.mixer.parameters() if self.mixer else ())]:
            fan_in = parameter.shape[1] if parameter.dim() == 2 else 1
            nn.init.normal_(parameter, std=fan_in**-0.5)
        nn.init.constant_(self.fire.c, -0.15)
        nn.init.constant_(self.fire.L_multiplier, self.threshold / 100.0)
        rows = (self.queries, self.keys, self.keys)
        q, k, v = (torch.randn(self.batch, self.heads, n, self.head_dim).to(self.dtype) for n in rows)
        self.qkv = (q.requires_grad_(), k.requires_grad_(), v.requires_grad_())

    @property
    def key_positions(self) -> Tensor:
        return torch.arange(self.first_position, self.first_position + self.keys)

    @property
    def query_positions(self) -> Tensor:
        return torch.arange(self.queries) + self.first_position + self.keys - self.queries

    def named(self) -> dict[str, Tensor]:
        mixer = self.mixer.named_parameters("mixer") if self.mixer else ()
        return dict(zip("qkv", self.qkv, strict=True)) | dict(self.fire.named_parameters("fire")) | dict(mixer)

    def pieces(self) -> Pieces:
        return fire_pieces(self.fire, self.mixer, self.query_positions, self.keys, causal=self.causal)

    def native(self, isa: str | None = None) -> Tensor:
        chosen = library.instruction_set(isa)
        return native_attention(library, *self.qkv, self.pieces(), causal=self.causal, isa=chosen)

    def double(self) -> "Case":
        twin = copy.copy(self)
        twin.fire = copy.deepcopy(self.fire).double()
        twin.mixer = copy.deepcopy(self.mixer).double() if self.mixer else None
        q, k, v = (t.detach().double().requires_grad_() for t in self.qkv)
        twin.qkv = (q, k, v)
        return twin

    def scores_and_bias(self) -> tuple[Tensor, Tensor]:
        q, k, _ = self.qkv
        bias = self.fire.bias(self.query_positions, self.key_positions)
        return q @ k.transpose(-1, -2) / math.sqrt(self.head_dim), bias

    def nearest_to_kink(self) -> float:
        """The least absolute pre-activation of the mixer; rounding may put one near 0 on its other side."""
        if self.mixer is None:
            return math.inf
        scores, bias = self.scores_and_bias()
        inputs = torch.cat(VARIANTS[self.variant].inputs(scores, bias.expand_as(scores)), 1)
        z = torch.einsum("dh,bhij->bdij", self.mixer.w1, inputs) + self.mixer.b1[:, None, None]
        return float(z.detach().abs().min())

    def materialised(self) -> Tensor:
        scores, bias = self.scores_and_bias()
        logits = self.mixer(scores, bias) if self.mixer else scores + bias
        hidden = self.key_positions > self.query_positions[:, None] if self.causal else torch.zeros(()).bool()
        return torch.softmax(logits.masked_fill(hidden, -math.inf), -1).nan_to_num(0.0) @ self.qkv[2]


def gradients(case: Case, out: Tensor) -> dict[str, Tensor]:
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).bfloat16().to(out.dtype)
    named = case.named()
    grads = torch.autograd.grad(out, list(named.values()), upstream, materialize_grads=True, allow_unused=True)
    return dict(zip(named, grads, strict=True))


def assert_close(got: Tensor, want: Tensor, tolerance: float, scale: float, what: str) -> None:
    error = float((got.detach().double() - want.detach()).norm())
    assert error <= tolerance * max(float(want.detach().norm()), scale), f"{what}: {error:.2e} of {want.norm():.2e}"


def assert_equals_materialised(case: Case, tolerance: float, isa: str | None = None) -> None:
    reference = case.double()
    out, want = case.native(isa), reference.materialised()
    assert_close(out, want, tolerance, 1e-3, "output")
    expected = gradients(reference, want)
    # sums over all pairs of terms that cancel, some to zero (b2): as exact as the terms are
    scale = float(expected["v"].norm())
    for name, grad in gradients(case, out).items():
        assert grad.dtype == case.named()[name].dtype
        assert_close(grad, expected[name], tolerance, scale, name)


@settings(max_examples=60)
@given(data=st.data(), isa=st.sampled_from(ISAS))
def test_float32_equals_the_encoding_and_the_mixer(data: st.DataObject, isa: str) -> None:
    torch.set_num_threads(data.draw(st.integers(1, 3)))
    queries = data.draw(st.integers(1, 80) | st.sampled_from([129, 200]))
    case = Case(
        queries=queries,
        keys=queries + data.draw(st.sampled_from([0, 0, 1, 5, 64, 100])),
        heads=data.draw(st.sampled_from([1, 2, 3, 4, 7, 12, 13, 32])),
        hidden=data.draw(st.just(0) | st.integers(1, 20) | st.just(64)),
        head_dim=data.draw(st.sampled_from([32, 48, 64])),
        batch=data.draw(st.integers(1, 2)),
        first_position=data.draw(st.sampled_from([0, 0, 3, 1000])),
        causal=data.draw(st.booleans()),
        variant=data.draw(st.sampled_from(["concat_residual", "concat", "add_residual"])),
        activation=data.draw(st.sampled_from(["relu", "leaky_relu"])),
        width=data.draw(st.sampled_from([1, 2, 8, 32, 70])),
        # rows before it have one normaliser, those behind it each their own
        threshold=data.draw(st.sampled_from([1e4, 100.0, 20.0, 1.0, -30.0])),
        seed=data.draw(st.integers(0, 1000)),
    )
    assert_equals_materialised(case, 1e-4 if case.double().nearest_to_kink() > 3e-6 else 2e-2, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "case",
    [
        {"queries": 300, "keys": 300, "heads": 12, "hidden": 32, "head_dim": 64},
        {"queries": 37, "keys": 201, "heads": 5, "hidden": 20, "batch": 2},
        {"queries": 130, "keys": 150, "causal": False, "threshold": 5.0, "activation": "relu"},
        {"queries": 150, "keys": 150, "heads": 6, "hidden": 0},
        {"queries": 90, "keys": 90, "hidden": 0, "causal": False},
    ],
)
def test_every_instruction_set_to_float32_rounding(isa: str, case: dict[str, int]) -> None:
    assert_equals_materialised(Case(**case), 1e-4, isa)


@pytest.mark.parametrize("causal", [True, False])
def test_bfloat16_within_its_rounding(causal: bool) -> None:
    assert_equals_materialised(Case(queries=150, keys=170, hidden=0, causal=causal, dtype=torch.bfloat16), 2e-2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_before_the_threshold_pieces_equal_tables(isa: str, dtype: torch.dtype) -> None:
    case = Case(queries=200, keys=200, heads=12, hidden=32, head_dim=64, threshold=300.0, dtype=dtype)
    assert case.mixer is not None
    last, offsets = torch.tensor([199]), torch.arange(199, -1, -1)
    u, c = case.mixer.split_bias(case.fire.bias(last, offsets)[:, 0], 200)
    tables = Tables(c, 0, case.mixer.w1[:, :12], case.mixer.w2, u.T)
    want = native_attention(library, *case.qkv, tables, isa=library.instruction_set(isa))
    out = case.native(isa)
    # a difference of float32 rounding may round to another bfloat16
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    assert_close(out, want, tolerance, 0.0, "output")
    expected = gradients(case, want)
    scale = float(expected["v"].norm())
    for name, grad in gradients(case, out).items():
        assert_close(grad, expected[name], 10 * tolerance, scale, name)


@pytest.mark.parametrize("queries", [0, 1, 5])
@pytest.mark.parametrize("keys", [0, 1, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_tiny_lengths_and_rows_without_keys(queries: int, keys: int, causal: bool) -> None:
    assert_equals_materialised(Case(queries=queries, keys=keys, causal=causal), 1e-4)


def test_the_pieces_are_the_bias_of_the_encoding() -> None:
    case = Case(queries=50, keys=80, hidden=0, causal=False, threshold=1.0)
    pieces = case.pieces()
    offsets = case.query_positions[:, None] - case.key_positions
    x = pieces.numerator[offsets - pieces.first_offset] * pieces.inverse[:, None]
    at = torch.bucketize(x, pieces.edges)
    assert len(pieces.edges) > 3
    assert torch.all(pieces.edges[1:] >= pieces.edges[:-1])
    slopes, intercepts = pieces.c
    want = case.double().fire.bias(case.query_positions, case.key_positions)
    assert (slopes[:, at] * x + intercepts[:, at] - want).abs().max() < 1e-5


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_units_that_are_constant_or_bend_at_the_same_place(activation: Literal["relu", "leaky_relu"]) -> None:
    case = Case(queries=70, keys=70, width=6, activation=activation)
    first = case.fire.mlp[0]
    assert isinstance(first.weight, Tensor)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.0], [0.0], [1.0], [-2.0], [3.0], [-1.0]]))
        first.bias.copy_(torch.tensor([0.7, -0.7, -0.5, 1.0, 0.0, -0.3]))
    assert_equals_materialised(case, 1e-4)


def test_parameters_that_are_not_numbers_give_no_numbers() -> None:
    for name in ("c", "L_multiplier"):
        case = Case(queries=40, keys=40)
        nn.init.constant_(getattr(case.fire, name), math.nan)
        out = case.native()
        assert out.isnan().any()
        out.sum().backward()


def test_two_threads_give_the_same_bits_every_time() -> None:
    torch.set_num_threads(2)
    case = Case(queries=500, keys=500)
    first = gradients(case, case.native())
    for _ in range(3):
        for name, grad in gradients(case, case.native()).items():
            assert torch.equal(grad, first[name]), name


def test_a_mixer_that_reads_the_bias_alone_is_none_of_this_form() -> None:
    with pytest.raises(AssertionError, match="kinks of its own"):
        Case(variant="bias_only").pieces()
