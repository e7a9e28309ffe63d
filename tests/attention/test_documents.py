"""Documents packed into one sequence: each is attended to as if it came alone, by every backend."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megadape.attention import (
    BACKENDS,
    VARIANTS,
    DapeMixer,
    DapeV2Mixer,
    Documents,
    choose,
    dape_attention,
    make_request,
)
from megadape.attention.cuts import CALL_PAIRS, FEWEST_QUERIES, plan_cuts
from megadape.errors import AttentionError
from megadape.positions import ENCODINGS, ContextualBias, ScoreBias, build

HEADS, WIDTH = 3, 4
ON_SCORES = [name for name in ENCODINGS if isinstance(build(name, 2, head_dim=4), ScoreBias | ContextualBias)]
MIXERS: dict[str, Callable[[bool], DapeMixer | None]] = {
    "no mixer": lambda with_bias: None,
    **{
        name: lambda with_bias, name=name: DapeMixer(HEADS, 6, name, with_bias=with_bias)  # type: ignore[misc]
        for name in VARIANTS
    },
    "dape_v2": lambda with_bias: DapeV2Mixer(HEADS, 5, 3, with_bias=with_bias),
    "dape_v2 over five keys": lambda with_bias: DapeV2Mixer(HEADS, 5, 5, with_bias=with_bias),
}
CASES = [each for each in product(("none", *ON_SCORES), MIXERS) if each != ("none", "bias_only")]
BIDIRECTIONAL = [
    (name, mixer, False)
    for name, mixer in product(("none", *ON_SCORES), ("no mixer", "concat_residual", "dape_v2 over five keys"))
]
GENERAL = [name for name in BACKENDS if name not in ("native", "triton")]
PACKED = ((5, 1, 7, 2), (15,), (1, 1, 6, 7))
"""Three sequences of 15 tokens."""

seeds = st.integers(0, 1 << 20)
packings = st.integers(1, 24).flatmap(
    lambda length: st.lists(
        st.sets(st.integers(1, max(1, length - 1)), max_size=6).map(
            lambda ends: tuple(b - a for a, b in pairwise([0, *sorted(ends - {length}), length]))
        ),
        min_size=1,
        max_size=3,
    ).map(tuple)
)


def modules(name: str, mixer: str, causal: bool = True) -> tuple[Any, DapeMixer | None]:
    """A small encoding that adds to scores, or None, and a mixer; float64, parameters away from where they vanish."""
    settings = {"fire": {"initial_L": 4, "width": 5}, "cope": {"max_positions": 3}, "t5": {"max_distance": 20}}
    mixing = MIXERS[mixer](name != "none")
    encoding = None
    if name != "none":
        encoding = build(name, HEADS, head_dim=WIDTH, training_length=8, causal=causal, **settings.get(name, {}))
        for parameter in encoding.double().parameters():
            torch.nn.init.uniform_(parameter, 0.2, 0.9)
    return encoding, None if mixing is None else mixing.double()


def content(packed: tuple[tuple[int, ...], ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = len(packed), HEADS, sum(packed[0]), WIDTH
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def one_by_one(packed: tuple[tuple[int, ...], ...], *qkv: Tensor, **options: Any) -> Tensor:
    """Every document in a call of its own, by the specification."""
    rows = []
    for row, lengths in enumerate(packed):
        ends = pairwise(accumulate(lengths, initial=0))
        alone = [
            dape_attention(*(x[row : row + 1, :, a:b] for x in qkv), backend="reference", **options) for a, b in ends
        ]
        rows.append(torch.cat(alone, dim=2))
    return torch.cat(rows)


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    found = torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True)
    return [out, *(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True))]


def parameters(*parts: torch.nn.Module | None) -> list[Tensor]:
    return [parameter for part in parts if part is not None for parameter in part.parameters()]


def able(backend: str, encoding: Any, mixer: DapeMixer | None) -> bool:
    if backend == "sdpa":
        return mixer is None and not isinstance(encoding, ContextualBias)
    return backend != "tiled" or not isinstance(encoding, ContextualBias)


@pytest.mark.parametrize(("name", "mixer", "causal"), [*((*each, True) for each in CASES), *BIDIRECTIONAL])
def test_a_packed_sequence_gives_what_each_document_alone_gives(name: str, mixer: str, causal: bool) -> None:
    encoding, mixing = modules(name, mixer, causal)
    qkv = content(PACKED)
    options = {"bias": encoding, "mixer": mixing, "causal": causal}
    inputs = [*qkv, *parameters(encoding, mixing)]
    wanted = with_gradients(one_by_one(PACKED, *qkv, **options), inputs)
    for backend in ("auto", *GENERAL):
        if not able(backend, encoding, mixing):
            continue
        if backend == "rows":
            with torch.no_grad():
                out = dape_attention(*qkv, documents=Documents(PACKED), backend=backend, **options)
            torch.testing.assert_close(out, wanted[0], rtol=1e-10, atol=1e-10)
            continue
        out = dape_attention(*qkv, documents=Documents(PACKED), backend=backend, **options)
        for got, expected in zip(with_gradients(out, inputs), wanted, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=1e-10, atol=1e-10, msg=lambda text, b=backend: f"{b}: {text}"
            )


@settings(max_examples=50)
@given(packed=packings, case=st.sampled_from(CASES), seed=seeds, data=st.data())
def test_the_mask_equals_the_cut_for_the_last_queries_of_any_packing(
    packed: tuple[tuple[int, ...], ...], case: tuple[str, str], seed: int, data: st.DataObject
) -> None:
    encoding, mixing = modules(*case)
    q, k, v = content(packed, seed)
    count = data.draw(st.integers(1, sum(packed[0])))
    results = []
    for backend in ("reference", "auto"):
        out = dape_attention(
            q[:, :, -count:], k, v, bias=encoding, mixer=mixing, documents=Documents(packed), backend=backend
        )
        results.append(with_gradients(out, [q, k, v, *parameters(encoding, mixing)]))
    wanted = one_by_one(packed, q, k, v, bias=encoding, mixer=mixing)[:, :, -count:]
    torch.testing.assert_close(results[0][0], wanted, rtol=1e-10, atol=1e-10)
    for cut, masked in zip(*results, strict=True):
        torch.testing.assert_close(cut, masked, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "mixer"), [("kerple_log", "concat_residual"), ("fire", "concat_residual"), ("t5", "no mixer")]
)
@pytest.mark.parametrize("packed", [((40, 1, 2, 33, 20), (96,), (3, 50, 43)), ((93, 3), (92, 1, 3), (94, 1, 1))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_kernels(kind: str, mixer: str, dtype: torch.dtype, packed: tuple[tuple[int, ...], ...]) -> None:
    """Documents shorter than a vector are filled up, and need no other backend."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, HEADS, 96, 32).to(dtype).requires_grad_() for _ in range(3))
    encoding = build(kind, HEADS, head_dim=32)
    mixing = MIXERS[mixer](True)
    if BACKENDS["native"].refuses(make_request(q, k, v, bias=encoding, mixer=mixing)) is not None:
        pytest.skip("no kernels were built")
    inputs = [q, k, v, *parameters(encoding, mixing)]
    call = {"bias": encoding, "mixer": mixing}
    found = with_gradients(dape_attention(q, k, v, documents=Documents(packed), backend="native", **call), inputs)
    wanted = with_gradients(one_by_one(packed, q.float(), k.float(), v.float(), **call), inputs)
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    for got, expected in zip(found, wanted, strict=True):
        # b2 has no gradient but rounding
        assert (got - expected).norm() <= tolerance * max(expected.norm(), 1.0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_bias_tensor_is_read_at_the_places_of_its_pairs(causal: bool) -> None:
    q, k, v = content(PACKED)
    bias = torch.randn(HEADS, 9, 15, dtype=torch.float64, requires_grad=True)
    results = []
    for backend in ("reference", "tiled", "sdpa"):
        out = dape_attention(q[:, :, 6:], k, v, bias=bias, causal=causal, documents=Documents(PACKED), backend=backend)
        results.append(with_gradients(out, [q, k, v, bias]))
    for masked, *cut in zip(*results, strict=True):
        for each in cut:
            torch.testing.assert_close(each, masked, rtol=1e-10, atol=1e-10)


def test_no_document_sees_another_whatever_is_in_it() -> None:
    """Not even what is no number; and nothing comes back to it."""
    encoding, mixing = modules("kerple_log", "dape_v2")
    q, k, v = content(((4, 6, 5),))
    clean = dape_attention(q, k, v, bias=encoding, mixer=mixing, documents=Documents(((4, 6, 5),)))
    spoilt = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    for x in spoilt:
        x.data[:, :, 4:10] = float("nan")
    out = dape_attention(*spoilt, bias=encoding, mixer=mixing, documents=Documents(((4, 6, 5),)))
    others = [0, 1, 2, 3, 10, 11, 12, 13, 14]
    torch.testing.assert_close(out[:, :, others], clean[:, :, others])
    gradients = torch.autograd.grad(clean[:, :, 4:10].sum(), (q, k, v))
    assert all(not gradient[:, :, others].any() for gradient in gradients)
    assert all(gradient[:, :, 4:10].any() for gradient in gradients)


@given(packings, st.data())
def test_every_document_is_in_one_call_and_none_costs_more_than_one_of_its_own(
    packed: tuple[tuple[int, ...], ...], data: st.DataObject
) -> None:
    scale = data.draw(st.sampled_from([1, 7, 60]))
    documents = Documents(tuple(tuple(n * scale for n in row) for row in packed))
    queries = data.draw(st.integers(1, sum(documents.lengths[0])))
    cuts = plan_cuts(documents, queries, fill=True)
    spans = [(span, cut) for cut in cuts for span in cut.spans]
    places = sorted((s.sequence, s.first_query, s.queries) for s, _ in spans)
    for row in range(len(packed)):
        ends = [first + count for sequence, first, count in places if sequence == row]
        firsts = [first for sequence, first, _ in places if sequence == row]
        assert [*firsts, queries] == [0, *ends]
    for span, cut in spans:
        assert cut.keys - cut.queries == span.keys - span.queries
        pairs = [rows * (cut.keys - cut.queries) + rows * (rows + 1) // 2 for rows in (cut.queries, span.queries)]
        assert 0 <= pairs[0] - pairs[1] <= CALL_PAIRS or cut.queries == FEWEST_QUERIES


def test_documents_by_numbers_by_end_tokens_and_by_lengths() -> None:
    wanted = Documents(((2, 3, 1), (6,), (1, 1, 4)))
    ids = wanted.ids()
    assert ids.tolist() == [[0, 0, 1, 1, 1, 2], [0] * 6, [0, 1, 2, 2, 2, 2]]
    assert Documents.from_ids(ids) == wanted
    assert Documents.from_ids(3 * ids - 7) == wanted
    tokens = torch.tensor([[5, 9, 5, 5, 9, 9], [5, 5, 5, 5, 5, 9], [9, 9, 5, 5, 5, 5]])
    assert Documents.ending_with(9, tokens) == wanted
    assert Documents.ending_with(8, tokens).single
    assert wanted.lay(torch.arange).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]]
    assert wanted.first(4) == Documents(((2, 2), (4,), (1, 1, 2)))
    assert wanted.last(3) == ((0, 2, 1), (3,), (0, 0, 3))


@given(packings)
def test_numbers_and_lengths_say_the_same(packed: tuple[tuple[int, ...], ...]) -> None:
    documents = Documents(packed)
    assert documents.fits(len(packed), sum(packed[0]))
    assert Documents.from_ids(documents.ids()) == documents


def test_one_document_a_sequence_is_an_ordinary_call() -> None:
    q, k, v = content(((15,), (15,), (15,)))
    assert make_request(q, k, v, documents=torch.zeros(3, 15, dtype=torch.int32)).documents is None
    ids = Documents(PACKED).ids()
    torch.testing.assert_close(
        dape_attention(q, k, v, documents=ids), dape_attention(q, k, v, documents=Documents(PACKED))
    )
    assert dape_attention(q[:, :, :0], k, v, documents=ids).shape == (3, HEADS, 0, WIDTH)


def test_dropout_drops_within_documents() -> None:
    torch.manual_seed(0)
    v = torch.ones(3, HEADS, 15, WIDTH)
    q = torch.randn(3, HEADS, 15, WIDTH)
    for backend in ("sdpa", "reference"):
        drawn = [
            dape_attention(q, q, v, documents=Documents(PACKED), dropout=0.25, backend=backend) for _ in range(200)
        ]
        mean = torch.stack(drawn).mean(0)
        assert (mean - 1).abs().max() < 0.35
        assert drawn[0].std() > 0.1


ZEROS = torch.zeros(1, 2, 3, 4)
IDS = torch.tensor([[0, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": IDS[:, :2]}, r"those of 1 sequences of 3 keys, but are of 1 sequences of \[2\] tokens"),
        ({"documents": IDS.expand(2, 3)}, "but are of 2 sequences"),
        ({"documents": IDS.float()}, r"must be \[batch, keys\] integers, but are torch.float32"),
        ({"documents": IDS[0]}, r"but are torch.int64 \[3\]"),
        ({"documents": torch.tensor([[0, 1, 0]])}, "in the order of the sequence"),
        ({"documents": Documents(((1, 1),))}, r"\[2\] tokens"),
        ({"documents": IDS, "key_positions": torch.arange(3)}, "give documents or positions, not both"),
        ({"documents": IDS, "query_positions": torch.arange(3)}, "give documents or positions, not both"),
        ({"documents": IDS, "q": torch.zeros(1, 2, 4, 4)}, "there are 4 queries and 3 keys"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    arguments = {"q": ZEROS, "k": ZEROS, "v": ZEROS, **changes}
    with pytest.raises(AttentionError, match=message):
        dape_attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)


@pytest.mark.parametrize(
    ("name", "mixer", "backend", "message"),
    [
        ("cope", "no mixer", "tiled", "does not show its scores .* can: reference"),
        ("alibi", "dape_v2", "sdpa", "does not mix heads; .* can: tiled, reference"),
        ("alibi", "no mixer", "rows", "keeps nothing for a backward pass .* can: tiled, sdpa, reference"),
    ],
)
def test_a_backend_that_cannot_is_refused_by_name(name: str, mixer: str, backend: str, message: str) -> None:
    encoding, mixing = modules(name, mixer)
    with pytest.raises(AttentionError, match=message):
        choose(make_request(*content(PACKED), bias=encoding, mixer=mixing, documents=Documents(PACKED)), backend)
