"""Attention over every encoding and mixer: the equation, its gradients, and what it may not see."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_attention import (
    CASES,
    GENERAL,
    HEADS,
    ON_SCORES,
    ROTARY,
    STATIC,
    WIDTH,
    make_content,
    make_encoding,
    make_mixer,
)
from torch import Tensor

from megadape.attention import VARIANTS, dape_attention, explain
from megadape.attention.reference import Reference
from megadape.attention.request import make_request
from megadape.attention.rows import Rows
from megadape.attention.sdpa import Sdpa
from megadape.positions import ContextualBias, PositionEncoding, RotaryEncoding, ScoreBias


def attend(encoding: PositionEncoding, q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
    """Attention as a model would call it, whatever the encoding."""
    if isinstance(encoding, RotaryEncoding):
        length = k.shape[2]
        positions = encoding.positions(length)
        q, k = encoding.rotate(q, positions[length - q.shape[2] :], length), encoding.rotate(k, positions, length)
    bias = encoding if isinstance(encoding, ScoreBias | ContextualBias) else None
    return dape_attention(q, k, v, bias=bias, causal=encoding.geometry.causal, **options)


@given(
    q=st.integers(1, 5),
    more=st.integers(0, 4),
    causal=st.booleans(),
    variant=st.sampled_from([None, *VARIANTS]),
    scale=st.sampled_from([None, 0.3]),
)
def test_softmax_of_the_logits_row_by_row(q: int, more: int, causal: bool, variant: str | None, scale: float) -> None:
    encoding, mixer = make_encoding("alibi", causal), make_mixer("alibi", variant)
    queries, keys, values = make_content(q, q + more, q + more)
    out = attend(encoding, queries, keys, values, mixer=mixer, scale=scale, backend="reference")
    scores = torch.einsum("bhid,bhjd->bhij", queries, keys) * (scale or WIDTH**-0.5)
    bias = encoding.bias(torch.arange(more, q + more), torch.arange(q + more))
    logits = mixer(scores, bias) if mixer is not None else scores + bias
    for row in range(q):
        seen = more + row + 1 if causal else q + more
        weights = logits[:, :, row, :seen].softmax(-1)
        torch.testing.assert_close(out[:, :, row], torch.einsum("bhj,bhjd->bhd", weights, values[:, :, :seen]))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_gradients(name: str, variant: str | None, causal: bool) -> None:
    torch.manual_seed(7)
    encoding, mixer = make_encoding(name, causal), make_mixer(name, variant)
    q, k, v = make_content(2, 4, 4, batch=1, grad=True)
    inputs = [q, k, v, *encoding.parameters(), *(mixer.parameters() if mixer is not None else ())]
    assert torch.autograd.gradcheck(lambda *_: attend(encoding, q, k, v, mixer=mixer), inputs)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_no_output_sees_a_later_token(name: str, variant: str | None) -> None:
    encoding, mixer = make_encoding(name), make_mixer(name, variant)
    content = make_content(9, 9, 9)
    before = attend(encoding, *content, mixer=mixer)
    for start in (1, 5, 8):
        for noise in (1.0, 1e6):
            changed = [tensor.clone() for tensor in content]
            for tensor in changed:
                tensor[:, :, start:] = noise * torch.randn_like(tensor[:, :, start:])
            for backend in ("reference", "rows"):
                with torch.no_grad():
                    after = attend(encoding, *changed, mixer=mixer, backend=backend)
                torch.testing.assert_close(after[:, :, :start], before[:, :, :start], rtol=1e-10, atol=1e-10)
                assert not torch.allclose(after[:, :, start:], before[:, :, start:])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_last_queries_alone_give_the_last_rows(name: str, variant: str | None, causal: bool) -> None:
    encoding, mixer = make_encoding(name, causal), make_mixer(name, variant)
    q, k, v = make_content(11, 11, 11)
    whole = attend(encoding, q, k, v, mixer=mixer)
    for rows in (1, 4):
        torch.testing.assert_close(attend(encoding, q[:, :, -rows:], k, v, mixer=mixer), whole[:, :, -rows:])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_blocks_of_rows_equal_the_whole(name: str, variant: str | None, causal: bool) -> None:
    encoding, mixer = make_encoding(name, causal), make_mixer(name, variant)
    q, k, v = make_content(13, 17, 17)
    with torch.no_grad():
        whole = attend(encoding, q, k, v, mixer=mixer, backend="reference")
        torch.testing.assert_close(attend(encoding, q, k, v, mixer=mixer, backend="rows"), whole)
        bias = encoding if name in ON_SCORES else None
        request = make_request(q, k, v, bias=bias, mixer=mixer, causal=causal)
        for budget in (1, 2000, 8000):
            blocked = Rows((Sdpa(), Reference()), budget)(request)
            torch.testing.assert_close(blocked, Reference()(request))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["none", *ROTARY, *STATIC])
def test_sdpa_equals_the_reference(name: str, causal: bool) -> None:
    encoding = make_encoding(name, causal)
    for lengths in ((1, 1, 1), (7, 7, 7), (3, 8, 8), (1, 8, 8)):
        results = []
        content = make_content(*lengths, grad=True)
        for backend in ("sdpa", "reference"):
            out = attend(encoding, *content, backend=backend)
            inputs = [*content, *encoding.parameters()]
            results.append((out, *torch.autograd.grad(out.sin().sum(), inputs, allow_unused=True)))
        for fused, plain in zip(*results, strict=True):
            torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_a_bias_tensor_is_a_bias(causal: bool) -> None:
    encoding, mixer = make_encoding("kerple_log", causal), make_mixer("kerple_log", "concat_residual")
    q, k, v = make_content(4, 6, 6)
    bias = encoding.bias(torch.arange(2, 6), torch.arange(6)).detach()
    for each, backend in product((mixer, None), GENERAL):
        if each is not None and backend == "sdpa":
            continue
        with torch.no_grad():
            expected = attend(encoding, q, k, v, mixer=each)
            out = dape_attention(q, k, v, bias=bias, mixer=each, causal=causal, backend=backend)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", ["none", *ON_SCORES])
def test_positions_may_start_anywhere(name: str) -> None:
    """A window of the sequence, with its positions given, is that part of the sequence."""
    encoding = make_encoding(name)
    mixer = make_mixer(name, "concat_residual")
    q, k, v = make_content(5, 12, 12)
    at = torch.tensor([0, 3, 4, 8, 11])
    everything = torch.randn(2, HEADS, 12, WIDTH, dtype=torch.float64)
    everything[:, :, at] = q
    whole = attend(encoding, everything, k, v, mixer=mixer)
    for backend in ("reference", "rows"):
        with torch.no_grad():
            out = attend(encoding, q, k, v, mixer=mixer, query_positions=at.int(), backend=backend)
        torch.testing.assert_close(out, whole[:, :, at])


@pytest.mark.parametrize("name", ["none", "alibi", "kerple_log", "t5", "transformer_xl"])
def test_far_offsets_change_nothing_where_distance_alone_matters(name: str) -> None:
    encoding, mixer = make_encoding(name), make_mixer(name, "concat_residual")
    q, k, v = make_content(3, 6, 6)
    near = attend(encoding, q, k, v, mixer=mixer)
    keys = torch.arange(6) + 40_000
    for queries in (None, keys[-3:]):
        far = attend(encoding, q, k, v, mixer=mixer, query_positions=queries, key_positions=keys)
        torch.testing.assert_close(far, near)


@pytest.mark.parametrize("keys", [[0, 1, 2, 3], [3, 0, 2, 1], [5, 5, 7, 7]])
def test_the_mask_follows_the_positions_and_not_the_order(keys: list[int]) -> None:
    encoding, positions = make_encoding("none"), torch.tensor(keys)
    for queries in (4, 2, 1):
        q, k, v = make_content(queries, 4, 4)
        options = {"query_positions": positions[4 - queries :], "key_positions": positions}
        expected = attend(encoding, q, k, v, backend="reference", **options)
        for backend in ("sdpa", "rows"):
            torch.testing.assert_close(attend(encoding, q, k, v, backend=backend, **options), expected)


@pytest.mark.parametrize("backend", GENERAL)
@pytest.mark.parametrize("name", ["none", "alibi"])
def test_a_query_that_sees_no_key_gives_zeros(name: str, backend: str) -> None:
    encoding = make_encoding(name)
    q, k, v = make_content(3, 5, 5, grad=backend != "rows")
    options = {"query_positions": torch.tensor([1, 9, 3]), "key_positions": torch.arange(2, 7)}
    out = attend(encoding, q, k, v, backend=backend, **options)
    assert not out[:, :, 0].any()
    torch.testing.assert_close(out, attend(encoding, q, k, v, backend="reference", **options))
    if out.requires_grad:
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_nan_in_a_query_stays_in_its_row(name: str, variant: str | None) -> None:
    encoding, mixer = make_encoding(name), make_mixer(name, variant)
    q, k, v = make_content(20, 20, 20)  # torch's own kernel swallows a NaN below 16 keys
    clean = attend(encoding, q, k, v, mixer=mixer)
    q[:, :, 3] = float("nan")
    out = attend(encoding, q, k, v, mixer=mixer)
    assert out[:, :, 3].isnan().all()
    others = [row for row in range(20) if row != 3]
    torch.testing.assert_close(out[:, :, others], clean[:, :, others])


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_half_precision(name: str, variant: str | None) -> None:
    encoding, mixer = make_encoding(name), make_mixer(name, variant)
    content = make_content(8, 8, 8)
    exact = attend(encoding, *content, mixer=mixer)
    encoding.bfloat16()
    if mixer is not None:
        mixer.bfloat16()
    out = attend(encoding, *(tensor.bfloat16() for tensor in content), mixer=mixer)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("name", "variant"), CASES)
@pytest.mark.parametrize("lengths", [(0, 0), (0, 3), (1, 1)])
def test_no_and_single_tokens(name: str, variant: str | None, lengths: tuple[int, int]) -> None:
    q, k, v = make_content(lengths[0], lengths[1], lengths[1])
    out = attend(make_encoding(name), q, k, v, mixer=make_mixer(name, variant))
    assert out.shape == q.shape
    if lengths == (1, 1):
        torch.testing.assert_close(out, v)


def test_no_keys_at_all() -> None:
    q, k, v = make_content(2, 0, 0)
    for causal in (True, False):
        out = dape_attention(q, k, v, causal=causal, query_positions=torch.arange(2), backend="reference")
        assert out.shape == q.shape
        assert not out.any()


@pytest.mark.parametrize("backend", GENERAL)
def test_strides_do_not_matter(backend: str) -> None:
    encoding = make_encoding("alibi")
    base = torch.randn(6, 2, 3 * HEADS, WIDTH, dtype=torch.float64)
    q, k, v = base.permute(1, 2, 0, 3).chunk(3, dim=1)
    mixers = [None] if backend == "sdpa" else [None, make_mixer("alibi", "concat_residual")]
    for mixer in mixers:
        expected = attend(encoding, q.contiguous(), k.contiguous(), v.contiguous(), mixer=mixer, backend="reference")
        with torch.no_grad():
            torch.testing.assert_close(attend(encoding, q, k, v, mixer=mixer, backend=backend), expected)
            spread = [tensor[:1, :1].expand(2, HEADS, -1, -1) for tensor in (q, k, v)]
            expected = attend(encoding, *(tensor.contiguous() for tensor in spread), mixer=mixer, backend="reference")
            torch.testing.assert_close(attend(encoding, *spread, mixer=mixer, backend=backend), expected)


@pytest.mark.parametrize("variant", [None, "concat_residual"])
def test_dropout_drops_weights_and_keeps_their_mean(variant: str | None) -> None:
    torch.manual_seed(0)
    encoding, mixer = make_encoding("alibi"), make_mixer("alibi", variant)
    q, k, v = make_content(4, 4, 4)
    plain = attend(encoding, q, k, v, mixer=mixer).detach()
    draws = torch.stack([attend(encoding, q, k, v, mixer=mixer, dropout=0.3).detach() for _ in range(3000)])
    assert not torch.allclose(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), plain, rtol=0, atol=0.15)


def test_values_may_have_a_width_of_their_own() -> None:
    q, k, _ = make_content(3, 5, 5)
    v = torch.randn(2, HEADS, 5, 7, dtype=torch.float64)
    encoding = make_encoding("alibi")
    assert attend(encoding, q, k, v).shape == (2, HEADS, 3, 7)


@pytest.mark.parametrize(("name", "variant"), [case for case in CASES if case[0] in ("none", "kerple_log", "cope")])
def test_explain_gives_what_goes_into_the_softmax(name: str, variant: str | None) -> None:
    encoding, mixer = make_encoding(name), make_mixer(name, variant)
    q, k, v = make_content(3, 6, 6)
    bias = encoding if name in ON_SCORES else None
    parts = explain(q, k, bias=bias, mixer=mixer)
    torch.testing.assert_close(parts.scores, q @ k.mT * WIDTH**-0.5)
    assert (parts.bias is None) == (bias is None)
    mask = torch.ones(3, 6).tril(3).bool()
    weights = parts.logits.masked_fill(~mask, float("-inf")).softmax(-1)
    torch.testing.assert_close(weights @ v, attend(encoding, q, k, v, mixer=mixer))
    if mixer is not None and variant != "concat":
        static = 0 if parts.bias is None else parts.bias
        torch.testing.assert_close(parts.logits - parts.scores - static, mixer.correction(parts.scores, parts.bias))
