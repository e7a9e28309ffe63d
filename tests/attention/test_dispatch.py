"""Which backend is chosen, and what users are told when they ask for what cannot be."""

import logging

import pytest
import torch

from megadape.attention import DapeMixer, choose, dape_attention, make_request
from megadape.attention.dispatch import _log_choice
from megadape.attention.request import Request
from megadape.errors import AttentionError
from megadape.positions import Heads, build


def ask(bias: str | None = None, mixing: bool = False, grad: bool = False) -> Request:
    q, k, v = (torch.zeros(1, 2, 3, 4, requires_grad=grad) for _ in range(3))
    encoding = build(bias, 2, head_dim=4).requires_grad_(grad) if bias else None
    mixer = DapeMixer(2, with_bias=bias is not None).requires_grad_(grad) if mixing else None
    return make_request(q, k, v, bias=encoding, mixer=mixer)


@pytest.mark.parametrize(
    ("request_", "chosen"),
    [
        (ask(grad=True), "sdpa"),
        (ask("alibi", grad=True), "tiled"),
        (ask("alibi"), "tiled"),
        (ask("cope", grad=True), "reference"),
        (ask("cope"), "rows"),
        (ask("alibi", mixing=True, grad=True), "tiled"),
        (ask("fire", mixing=True), "tiled"),
    ],
)
def test_auto_takes_the_first_that_can(request_: Request, chosen: str) -> None:
    assert choose(request_).name == chosen


def test_a_gradient_is_needed_where_anything_learns() -> None:
    assert not ask("kerple_log", mixing=True).needs_grad
    q, k, v = (torch.zeros(1, 2, 3, 4) for _ in range(3))
    kerple, mixer = build("kerple_log", 2), DapeMixer(2)
    assert make_request(q, k, v, bias=kerple).needs_grad
    assert make_request(q, k, v, bias=build("alibi", 2), mixer=mixer).needs_grad
    assert make_request(q, k, v, bias=torch.zeros(2, 3, 3, requires_grad=True)).needs_grad
    with torch.no_grad():
        assert not make_request(q, k, v, bias=kerple, mixer=mixer).needs_grad


@pytest.mark.parametrize(
    ("request_", "name", "message"),
    [
        (
            ask("alibi", mixing=True),
            "sdpa",
            "'sdpa' cannot be used: it does not mix heads; .* can: .*tiled, rows, reference",
        ),
        (ask("cope", grad=True), "sdpa", "does not show its scores .* can: reference"),
        (ask(grad=True), "rows", "keeps nothing for a backward pass .* can: .*tiled, sdpa, reference"),
        (ask(), "flash", "unknown attention backend 'flash'; known: auto, .*tiled, rows, sdpa, reference"),
    ],
)
def test_the_impossible_is_refused_with_the_reason(request_: Request, name: str, message: str) -> None:
    with pytest.raises(AttentionError, match=message):
        choose(request_, name)


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    _log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="megadape.attention"):
        for _ in range(3):
            choose(ask("alibi", grad=True))
    assert [record.message for record in caplog.records] == [
        "attention backend tiled (asked: auto, on cpu, not mixing)"
    ]


ZEROS = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 3, 4)}, r"must be \[batch, heads, sequence, head_dim\]"),
        ({"k": torch.zeros(1, 3, 3, 4)}, "agree in batch, heads"),
        ({"q": torch.zeros(1, 2, 3, 5)}, "agree in batch, heads"),
        ({"v": torch.zeros(1, 2, 4, 4)}, "k, v in length"),
        ({name: torch.zeros(1, 2, 3, 0) for name in "qkv"}, "head_dim must be at least 1"),
        ({"q": ZEROS.double()}, "one floating-point dtype"),
        ({name: ZEROS.long() for name in "qkv"}, "one floating-point dtype"),
        ({"q": torch.zeros(1, 2, 4, 4)}, "4 queries cannot be the last of 3 keys: give query_positions"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"mixer": DapeMixer(3, with_bias=False)}, "built for 3 heads, but q has 2"),
        ({"mixer": DapeMixer(2)}, "none is given"),
        ({"mixer": DapeMixer(2, with_bias=False), "bias": build("alibi", 2)}, "with_bias=False"),
        ({"bias": build("alibi", 3)}, "built for 3 heads, but q has 2"),
        ({"bias": build("alibi", 4, heads=Heads(4, 1, 1))}, "built for 1 heads, but q has 2"),
        ({"bias": build("alibi", 2, causal=False)}, "built with causal=False, but attention is asked for causal=True"),
        ({"bias": build("rope", 2)}, "not Rope"),
        ({"bias": torch.zeros(1, 3, 3)}, r"must be floating-point \[2, 3, 3\]"),
        ({"bias": torch.zeros(2, 3, 3, dtype=torch.bool)}, "torch.bool"),
        ({"query_positions": torch.arange(2)}, r"query_positions must be \[3\] integers"),
        ({"key_positions": torch.arange(3.0)}, r"key_positions must be \[3\] integers"),
        ({"bias": build("cope", 2, head_dim=4), "key_positions": torch.tensor([0, 2, 1])}, "must increase"),
    ],
)
def test_mistakes(changes: dict, message: str) -> None:
    arguments = {"q": ZEROS, "k": ZEROS, "v": ZEROS, **changes}
    with pytest.raises(AttentionError, match=message):
        dape_attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)


def test_more_queries_than_keys_are_fine_where_no_position_is_read() -> None:
    q, k = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 3, 4)
    out = [dape_attention(q, k, k, causal=False, backend=backend) for backend in ("tiled", "rows", "sdpa", "reference")]
    torch.testing.assert_close(out[0], out[-1])
    torch.testing.assert_close(out[1], out[-1])


def test_an_encoding_that_knows_no_direction_serves_both_forms() -> None:
    q = torch.randn(1, 2, 5, 4)
    for causal in (True, False):
        biases = [build("kerple_log", 2, causal=built) for built in (True, False)]
        biases[1].load_state_dict(biases[0].state_dict())
        torch.testing.assert_close(*[dape_attention(q, q, q, bias=bias, causal=causal) for bias in biases])
