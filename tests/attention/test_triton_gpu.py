"""The Triton kernels on a GPU, against the reference in float64."""

import pytest
import torch
from torch import Tensor

from megadape.attention import DapeMixer, Documents, choose, dape_attention, make_request
from megadape.attention.gpu import Triton
from megadape.attention.gpu.chunks import Budget
from megadape.positions import build

if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)

TOLERANCES = {torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float32: 1e-4}
"""In norm, of outputs; gradients get three times as much, for the sake of LeakyReLU's kink."""


def content(batch: int, heads: int, queries: int, keys: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, length, dim) for length in (queries, keys, keys)]
    return [torch.randn(shape, generator=generator).to("cuda", dtype).requires_grad_() for shape in shapes]


def modules(name: str, variant: str | None, heads: int, hidden: int, causal: bool) -> tuple[torch.nn.Module, ...]:
    torch.manual_seed(0)
    encoding = build(name, heads, causal=causal).cuda()
    return (encoding,) if variant is None else (encoding, DapeMixer(heads, hidden, variant).cuda())


def run(
    backend: str, tensors: list[Tensor], parts: tuple[torch.nn.Module, ...], causal: bool, **options: object
) -> list[Tensor]:
    """Output, then every gradient."""
    bias, mixer = parts[0], parts[1] if len(parts) > 1 else None
    out = dape_attention(*tensors, bias=bias, mixer=mixer, causal=causal, backend=backend, **options)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    parameters = [parameter for part in parts for parameter in part.parameters()]
    grads = torch.autograd.grad(out, [*tensors, *parameters], upstream, allow_unused=True)
    return [out, *(torch.zeros(1) if grad is None else grad for grad in grads)]


def assert_equals_reference(tensors: list[Tensor], parts: tuple, causal: bool = True, **options: object) -> None:
    got = run("triton", tensors, parts, causal, **options)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    for part in parts:
        part.double()
    want = run("reference", wide, parts, causal, **options)
    tolerance = TOLERANCES[tensors[0].dtype]
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        allowed = (3 if number else 1) * tolerance
        error = (a.double() - b.double()).norm()
        assert error <= allowed * b.norm() + allowed * b.numel() ** 0.5, f"tensor {number}: {error} of {b.norm()}"


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("name", "variant"),
    [("kerple_log", "concat_residual"), ("alibi", "concat"), ("t5", None), ("fire", "add_residual"), ("fire", None)],
)
def test_every_form(name: str, variant: str | None, causal: bool, dtype: torch.dtype) -> None:
    parts = modules(name, variant, 12, 32, causal)
    assert_equals_reference(content(2, 12, 333, 400, 64, dtype), parts, causal)


@pytest.mark.parametrize(("heads", "hidden", "dim"), [(3, 8, 32), (16, 64, 64), (32, 32, 128), (8, 64, 24)])
def test_every_tile(heads: int, hidden: int, dim: int) -> None:
    parts = modules("kerple_log", "concat_residual", heads, hidden, causal=True)
    assert_equals_reference(content(1, heads, 300, 300, dim, torch.bfloat16), parts)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 777), (15, 64), (64, 64), (2048, 2048)])
def test_lengths(queries: int, keys: int) -> None:
    parts = modules("kerple_log", "concat_residual", 4, 32, causal=True)
    assert_equals_reference(content(1, 4, queries, keys, 64, torch.bfloat16), parts)


def test_documents() -> None:
    parts = modules("kerple_log", "concat_residual", 4, 32, causal=True)
    documents = Documents(((70, 30, 100), (200,)))
    assert_equals_reference(content(2, 4, 200, 200, 64, torch.bfloat16), parts, documents=documents)


def test_many_chunks_give_what_one_gives_and_the_same_bits_every_time() -> None:
    encoding, mixer = modules("kerple_log", "concat_residual", 12, 32, causal=True)
    request = make_request(*content(3, 12, 1000, 1000, 64, torch.bfloat16), bias=encoding, mixer=mixer)
    one, many = Triton()(request), Triton(Budget(numbers=1 << 20))(request)
    assert (one.double() - many.double()).norm() <= 1e-2 * one.double().norm()
    assert torch.equal(one, Triton()(request))
    first, second = (
        torch.autograd.grad(Triton()(request).float().square().sum(), [request.q, mixer.w1, encoding.r1])
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_is_the_first_choice_and_takes_memory_linear_in_the_length() -> None:
    encoding, mixer = modules("kerple_log", "concat_residual", 12, 32, causal=True)
    peaks = []
    for length in (8192, 16384):
        tensors = content(1, 12, length, length, 64, torch.bfloat16)
        assert choose(make_request(*tensors, bias=encoding, mixer=mixer)).name == "triton"
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        dape_attention(*tensors, bias=encoding, mixer=mixer).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 2.2 * peaks[0]
