"""Tiles equal the specification: outputs and all gradients, whatever the shapes, the bias, the mixer and the tiles."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megadape.attention import BACKENDS, VARIANTS, Backend, DapeMixer, DapeV2Mixer, choose, make_request
from megadape.attention.reference import Reference
from megadape.attention.tiled import Tiled
from megadape.errors import AttentionError
from megadape.positions import ENCODINGS, ScoreBias, build

STATIC = [name for name in ENCODINGS if isinstance(build(name, 2), ScoreBias)]
MIXERS = {
    "none": None,
    **{name: partial(DapeMixer, variant=name) for name in VARIANTS},
    **{f"v2 of {kernel}": partial(DapeV2Mixer, kernel=kernel) for kernel in (1, 3, 5)},
}
TILES = [
    Tiled(),
    Tiled(block_scores=300, tile_numbers=100, rows=(1, 7)),
    Tiled(block_scores=10**6, tile_numbers=150, rows=(5, 5)),
    Tiled(block_scores=1, tile_numbers=1, rows=(1, 1)),
    Tiled(block_scores=10**6, tile_numbers=10**6, rows=(1, 1)),
]


@dataclass(frozen=True)
class Call:
    """One attention call, made the same for every backend and dtype."""

    bias: str | None = "kerple_log"
    mixer: str = "concat_residual"
    causal: bool = True
    batch: int = 1
    heads: int = 2
    width: int = 4
    value_width: int = 4
    hidden: int = 6
    queries: int = 9
    more_keys: int = 0
    score_scale: float = 1.0
    positions: str = "default"
    seed: int = 0

    def run(self, backend: Backend, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Output and the gradient of everything that learns."""
        torch.manual_seed(self.seed)
        inputs, modules = self.inputs(), self.modules()
        keys = self.queries + self.more_keys
        positions = self.draw_positions(keys)
        upstream = torch.randn(self.batch, self.heads, self.queries, self.value_width, dtype=torch.float64)
        learning = {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}
        for name, module in modules.items():
            module.to(dtype)
            learning.update({f"{name}.{key}": parameter for key, parameter in module.named_parameters()})
        request = make_request(
            learning["q"],
            learning["k"],
            learning["v"],
            bias=learning.get("bias", modules.get("bias")),
            mixer=modules.get("mixer"),
            causal=self.causal,
            **positions,
        )
        assert backend.refuses(request) is None
        out = backend(request)
        assert out.dtype == dtype
        gradients = torch.autograd.grad(out, list(learning.values()), upstream.to(dtype), allow_unused=True)
        graded = {
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(learning.items(), gradients, strict=True)
        }
        assert all(graded[name].dtype == tensor.dtype for name, tensor in learning.items())
        return {"out": out.detach(), **graded}

    def inputs(self) -> dict[str, Tensor]:
        keys = self.queries + self.more_keys
        lengths = {"q": (self.queries, self.width), "k": (keys, self.width), "v": (keys, self.value_width)}
        drawn = {name: torch.randn(self.batch, self.heads, *shape).double() for name, shape in lengths.items()}
        drawn["q"] *= self.score_scale
        if self.bias == "dense":
            drawn["bias"] = torch.randn(self.heads, self.queries, keys).double()
        # what bfloat16 holds exactly, so that all dtypes are asked the same
        return {name: tensor.bfloat16().double() for name, tensor in drawn.items()}

    def modules(self) -> dict[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        if self.bias not in (None, "dense"):
            options = {"fire": {"initial_L": 4, "width": 5}, "t5": {"max_distance": 20}}.get(self.bias, {})
            made["bias"] = build(self.bias, self.heads, head_dim=self.width, causal=self.causal, **options)
        if MIXERS[self.mixer] is not None:
            made["mixer"] = MIXERS[self.mixer](self.heads, self.hidden, with_bias=self.bias is not None)
        for module in made.values():
            for parameter in module.parameters():
                nn.init.uniform_(parameter, *((0.2, 0.9) if "bias" in made and module is made["bias"] else (-0.6, 0.6)))
                parameter.data = parameter.data.bfloat16().float()
        return {name: module.double() for name, module in made.items()}

    def draw_positions(self, keys: int) -> dict[str, Tensor]:
        match self.positions:
            case "default":
                return {}
            case "shifted":
                return {
                    "query_positions": torch.arange(self.queries) + self.seed % 7 - 3,
                    "key_positions": torch.arange(keys),
                }
            case "spread":
                at = torch.randperm(4 * keys + 1)[:keys].sort().values
                return {"query_positions": at[keys - self.queries :], "key_positions": at}
            case _:
                return {
                    "query_positions": torch.randint(-2, keys + 3, (self.queries,)),
                    "key_positions": torch.randint(0, keys + 1, (keys,)),
                }


def mixers_for(bias: str | None) -> list[str]:
    return [name for name in MIXERS if bias is not None or name != "bias_only"]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    bias = draw(st.sampled_from([None, "dense", *STATIC]))
    return Call(
        bias,
        draw(st.sampled_from(mixers_for(bias))),
        draw(st.booleans()),
        batch=draw(st.integers(1, 5)),
        heads=draw(st.integers(1, 4)),
        width=draw(st.integers(1, 6)),
        value_width=draw(st.integers(1, 6)),
        hidden=draw(st.integers(1, 8)),
        queries=draw(st.integers(1, 20)),
        more_keys=draw(st.sampled_from([0, 0, 1, 2, 9])),
        score_scale=draw(st.sampled_from([0.1, 1.0, 8.0])),
        positions=draw(st.sampled_from(["default", "default", "shifted", "spread", "any"])),
        seed=draw(st.integers(0, 10**6)),
    )


def check_exact(call: Call, tiled: Tiled) -> None:
    expected = call.run(Reference())
    for name, value in call.run(tiled).items():
        size = max(1.0, expected[name].abs().max().item())
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-10 * size, msg=lambda m, n=name: f"{n}: {m}")


@settings(max_examples=250)
@given(call=calls(), tiled=st.sampled_from(TILES))
def test_outputs_and_all_gradients(call: Call, tiled: Tiled) -> None:
    check_exact(call, tiled)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("bias", "mixer"), [(bias, mixer) for bias in (None, "dense", *STATIC) for mixer in mixers_for(bias)]
)
def test_every_bias_with_every_mixer(bias: str | None, mixer: str, causal: bool) -> None:
    call = Call(bias, mixer, causal, batch=3, heads=3, queries=17, more_keys=4, value_width=5)
    check_exact(call, Tiled(block_scores=400, tile_numbers=200, rows=(2, 6)))


@pytest.mark.parametrize("mixer", MIXERS)
def test_large_scores(mixer: str) -> None:
    call = Call(mixer=mixer, batch=2, width=16, queries=40, score_scale=25.0)
    torch.manual_seed(call.seed)
    inputs = call.inputs()
    assert (inputs["q"] @ inputs["k"].mT / 4).abs().max() > 80
    check_exact(call, TILES[1])


# a seed for which no argument of LeakyReLU lies within rounding of its kink: one that does moves a gradient by 1e-4
WIDE = {"heads": 12, "width": 64, "value_width": 64, "hidden": 32, "queries": 150, "score_scale": 1.5, "seed": 1}


def relative_errors(call: Call, dtype: torch.dtype) -> dict[str, float]:
    exact, rounded = call.run(Reference()), call.run(Tiled(), dtype)
    whole = max(exact[name].norm() for name in exact if name.startswith("mixer."))
    assert (rounded.pop("mixer.b2").double() - exact["mixer.b2"]).norm() < 1e-2 * whole  # zero in exact arithmetic
    return {
        name: ((value.double() - exact[name]).norm() / (1e-30 + exact[name].norm())).item()
        for name, value in rounded.items()
    }


@pytest.mark.parametrize("mixer", ["concat_residual", "add_residual", "v2 of 3"])
@pytest.mark.parametrize("bias", ["kerple_log", "fire"])
def test_float32(bias: str, mixer: str) -> None:
    assert max(relative_errors(Call(bias, mixer, **WIDE), torch.float32).values()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    errors = relative_errors(Call(**WIDE), dtype)
    assert errors.pop("out") < 2 * torch.finfo(dtype).eps
    assert max(errors.values()) < 5 * torch.finfo(dtype).eps


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("spoilt", ["q", "k"])
def test_a_nan_stays_where_the_reference_has_it(spoilt: str, mixer: str) -> None:
    torch.manual_seed(0)
    call = Call(mixer=mixer, batch=2, queries=20)
    inputs, modules = call.inputs(), call.modules()
    inputs[spoilt][1, :, 11] = float("nan")
    request = make_request(**inputs, bias=modules["bias"], mixer=modules.get("mixer"))
    expected = Reference()(request)
    assert 0 < expected.isnan().sum() < expected.numel()
    for tiled in TILES:
        torch.testing.assert_close(tiled(request), expected, equal_nan=True)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (0, 3), (1, 1), (2, 0), (1, 5)])
def test_no_and_single_tokens(queries: int, keys: int, mixer: str) -> None:
    modules = Call(mixer=mixer).modules()
    q, k, v = (torch.randn(2, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (queries, keys, keys))
    at = torch.arange(queries) + max(0, keys - queries)
    request = make_request(q, k, v, bias=modules["bias"], mixer=modules.get("mixer"), query_positions=at)
    out = Tiled()(request)
    torch.testing.assert_close(out, Reference()(request))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize("mixer", MIXERS)
def test_views_are_read_and_arguments_left_alone(mixer: str) -> None:
    modules = Call(mixer=mixer).modules()
    base = torch.randn(2, 11, 6, 4, dtype=torch.float64)
    for q, k, v in (
        base.transpose(1, 2).chunk(3, dim=1),
        [part[:1, :1].expand(3, 2, -1, -1) for part in base.transpose(1, 2).chunk(3, dim=1)],
        [base.permute(0, 2, 3, 1)[:, i : i + 2, :, :4].flip(2).mT for i in range(3)],
    ):
        before = base.clone()
        request = make_request(q, k, v, bias=modules["bias"], mixer=modules.get("mixer"))
        torch.testing.assert_close(Tiled()(request), Reference()(request))
        assert torch.equal(base, before)


@pytest.mark.parametrize("frozen", ["q", "k", "v", "bias", "mixer"])
def test_what_does_not_learn_gets_no_gradient(frozen: str) -> None:
    call = Call()
    modules = call.modules()
    inputs = {name: tensor.requires_grad_(name != frozen) for name, tensor in call.inputs().items()}
    for name, module in modules.items():
        module.requires_grad_(name != frozen)
    learning = [*inputs.values(), *(p for module in modules.values() for p in module.parameters())]
    gradients = []
    for backend in (Tiled(), Reference()):
        for tensor in learning:
            tensor.grad = None
        backend(make_request(**inputs, bias=modules["bias"], mixer=modules["mixer"])).square().sum().backward()
        gradients.append([tensor.grad for tensor in learning])
    for mine, expected in zip(*gradients, strict=True):
        assert (mine is None) == (expected is None)
        if mine is not None:
            torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("bias", ["kerple_log", "fire"])
def test_again_and_under_checkpointing(bias: str) -> None:
    call = Call(bias, batch=2)
    modules = call.modules()
    inputs = {name: tensor.requires_grad_() for name, tensor in call.inputs().items()}
    learning = [*inputs.values(), *(p for module in modules.values() for p in module.parameters())]

    def attend() -> Tensor:
        return Tiled()(make_request(**inputs, bias=modules["bias"], mixer=modules["mixer"])).square().sum()

    loss = attend()
    first, second = (torch.autograd.grad(loss, learning, retain_graph=True) for _ in range(2))
    recomputed = torch.autograd.grad(checkpoint(attend, use_reentrant=False), learning)
    for one, two, three in zip(first, second, recomputed, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_autocast_changes_nothing() -> None:
    call = Call(batch=2)
    torch.manual_seed(call.seed)
    modules = {name: module.float() for name, module in call.modules().items()}
    inputs = {name: tensor.float().requires_grad_() for name, tensor in call.inputs().items()}
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = Tiled()(make_request(**inputs, bias=modules["bias"], mixer=modules["mixer"]))
            results.append((out, *torch.autograd.grad(out.square().sum(), list(inputs.values()))))
    for plain, cast in zip(*results, strict=True):
        assert torch.equal(plain, cast)


def ask(bias: str | None, mixer: str, grad: bool, **options: object) -> str:
    call = Call(bias, mixer)
    modules, inputs = call.modules(), {name: x.requires_grad_(grad) for name, x in call.inputs().items()}
    return choose(make_request(**inputs, bias=modules.get("bias"), mixer=modules.get("mixer"), **options)).name


@pytest.mark.parametrize("grad", [True, False])
def test_auto_prefers_it_wherever_it_can(grad: bool) -> None:
    for mixer in MIXERS:
        for bias in STATIC:
            assert ask(bias, mixer, grad) == "tiled"
    assert ask(None, "concat_residual", grad) == "tiled"
    assert ask(None, "none", grad) == "sdpa"
    assert ask("alibi", "concat_residual", grad, dropout=0.1) != "tiled"
    assert ask("cope", "concat_residual", grad) != "tiled"


def test_what_it_refuses() -> None:
    q = torch.zeros(1, 2, 3, 4)
    assert "tiled" in BACKENDS
    with pytest.raises(AttentionError, match="'tiled' cannot be used: it drops no attention weights"):
        choose(make_request(q, q, q, dropout=0.1), "tiled")
    with pytest.raises(AttentionError, match="does not show its scores"):
        choose(make_request(q, q, q, bias=build("cope", 2, head_dim=4)), "tiled")
