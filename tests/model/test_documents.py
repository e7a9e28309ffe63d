"""A model that keeps documents apart: a packed sequence is its documents, one by one."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from megadape.attention import Documents
from megadape.errors import ConfigurationError
from megadape.model import GPT, Architecture, build_gpt
from megadape.positions.registry import ENCODINGS

END, TRAINED, WORDS = 7, 6, 31
MIXERS: tuple[dict[str, Any], ...] = (
    {"kind": "none"},
    {"kind": "dape", "hidden": 6},
    {"kind": "dape_v2", "hidden": 5},
)
PACKED = ((3, 9, 1, 4), (17,), (1, 1, 8, 7))
"""Documents shorter and longer than the training length; the middle sequence is one."""


def build(kind: str, mixer: dict[str, Any] = MIXERS[0], options: dict[str, Any] | None = None, **model: Any) -> GPT:
    """In float64, with no parameter at a value where its gradient vanishes."""
    shape = {"num_layers": 2, "hidden_size": 24, "num_heads": 3, "vocab_size": WORDS}
    separate = {"documents": "separate", "end_of_document": END}
    architecture = Architecture.model_validate(
        {"model": shape | separate | model, "positions": {"kind": kind}, "mixer": mixer, "training_length": TRAINED}
    )
    built = build_gpt(architecture, seed=1, **options or {}).double().eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "positions" in name:
                parameter.add_(0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return built


def pack(packed: tuple[tuple[int, ...], ...] = PACKED, seed: int = 0) -> Tensor:
    """Ids [b, s + 1] whose inputs are documents of these lengths, each but the last of a sequence ended by END."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(END + 1, WORDS, (len(packed), sum(packed[0]) + 1), generator=generator)
    for row, lengths in zip(tokens, packed, strict=True):
        for end in list(accumulate(lengths))[:-1]:
            row[end - 1] = END
    return tokens


def losses_one_by_one(model: GPT, tokens: Tensor, packed: tuple[tuple[int, ...], ...] = PACKED) -> Tensor:
    """Of every token, [b, s]: each document in a forward pass of its own."""
    rows = []
    for row, lengths in zip(tokens, packed, strict=True):
        each = pairwise(accumulate(lengths, initial=0))
        alone = [model.token_losses(model.hidden(row[None, a:b]), row[None, a + 1 : b + 1]) for a, b in each]
        rows.append(torch.cat(alone, dim=1))
    return torch.cat(rows)


def gradients(model: GPT, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: mixer["kind"])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_packed_batch_is_its_documents_one_by_one(kind: str, mixer: dict[str, Any]) -> None:
    model, tokens = build(kind, mixer), pack()
    losses = model.token_losses(model.hidden(tokens[:, :-1], Documents(PACKED)), tokens[:, 1:])
    wanted = losses_one_by_one(model, tokens)
    torch.testing.assert_close(losses, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.loss(tokens), wanted.mean(), rtol=1e-10, atol=1e-10)
    found, expected = gradients(model, model.loss(tokens)), gradients(model, wanted.mean())
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=lambda t, n=name: f"{n}: {t}")


def test_joined_documents_are_one_text() -> None:
    tokens = pack()
    apart, together = build("fire", MIXERS[1]), build("fire", MIXERS[1], documents="joined", end_of_document=None)
    inputs = tokens[:, :-1]
    assert together.find_documents(inputs) is None
    assert apart.find_documents(inputs) == Documents(PACKED)
    whole = together.token_losses(together.hidden(inputs), tokens[:, 1:])
    assert torch.equal(together.loss(tokens), whole.mean())
    assert (apart.loss(tokens) - together.loss(tokens)).abs() > 1e-6


@torch.no_grad()
def test_evaluation_reads_every_text_whole() -> None:
    tokens = pack()
    apart, together = build("fire", MIXERS[1]), build("fire", MIXERS[1], documents="joined", end_of_document=None)
    assert torch.equal(apart(tokens), together(tokens))
    assert torch.equal(apart.last_losses(tokens, 5), together.last_losses(tokens, 5))


def test_a_document_changes_no_prediction_of_another() -> None:
    model, tokens = build("cope", MIXERS[2]), pack()
    changed = tokens.clone()
    changed[0, 3:11] = torch.randint(END + 1, WORDS, (8,))  # the second document, up to its end
    documents = model.find_documents(tokens[:, :-1])
    before, after = (model.hidden(each[:, :-1], documents) for each in (tokens, changed))
    others = [place for place in range(17) if not 3 <= place < 12]
    assert torch.equal(before[0, others], after[0, others])
    assert not torch.equal(before[0, 3:12], after[0, 3:12])


@pytest.mark.parametrize("kind", ["kerple_log", "randomized_rope", "learned"])
def test_activation_checkpointing_changes_no_gradient(kind: str) -> None:
    tokens, found = pack(), []
    for recompute in (False, True):
        options = {"activation_checkpointing": recompute}
        model = build(kind, MIXERS[1], options, dropout=0.2, attention_dropout=0.1).train()
        torch.manual_seed(3)
        found.append(gradients(model, model.loss(tokens)))
    torch.testing.assert_close(*found)


def test_positions_are_drawn_for_every_document() -> None:
    model = build("randomized_rope").train()
    model.position_streams.seed(4)
    positions = model.lay_out(17, torch.device("cpu"), documents=Documents(PACKED)).positions
    assert positions.shape == (3, 17)
    rows = [row.split(list(lengths)) for row, lengths in zip(positions, PACKED, strict=True)]
    assert all((document.diff() > 0).all() for row in rows for document in row)
    firsts = {int(document[0]) for row in rows for document in row}
    assert len(firsts) > 3
    assert len({tuple(row[:3].tolist()) for row in positions}) == 3


@pytest.mark.parametrize("backend", ["tiled", "reference"])
def test_the_named_backend_is_the_one_that_computes(backend: str) -> None:
    tokens = pack()
    named, auto = build("alibi", MIXERS[1], attention_backend=backend), build("alibi", MIXERS[1])
    torch.testing.assert_close(named.loss(tokens), auto.loss(tokens), rtol=1e-10, atol=1e-10)


def test_the_end_must_be_known() -> None:
    model = build("alibi", end_of_document=None)
    with pytest.raises(ConfigurationError, match=r"give model\.end_of_document, or a dataset"):
        model.loss(pack())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"documents": "joined"}, r"end_of_document \(7\) is read where documents are kept apart"),
        ({"end_of_document": WORDS}, "end_of_document must be below vocab_size, but is 31 of 31"),
        ({"documents": "apart"}, "Input should be 'joined' or 'separate'"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("alibi", **settings)
