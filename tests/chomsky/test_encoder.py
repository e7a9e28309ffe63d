"""The bidirectional encoder: every encoding and mixer, both places of the norms, drawn positions."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional

from megadape.attention import MixerSettings
from megadape.attention.call import Attention, score_term
from megadape.attention.exchange import Local
from megadape.attention.row_exchange import attend_rows
from megadape.errors import AttentionError
from megadape.model.block import Block
from megadape.model.encoder import Encoder, EncoderArchitecture, EncoderSettings, build_encoder
from megadape.parallel.deal import RowDeal
from megadape.parallel.group import ALONE
from megadape.positions import ENCODINGS, PositionSettings
from megadape.positions import build as build_encoding

MIXERS = ("none", "dape", "dape_v2")
SMALL = EncoderSettings(num_layers=2, hidden_size=32, num_heads=4, dropout=0.0)
LENGTH, OUTPUTS = 13, 6


def build(
    positions: str = "kerple_log",
    mixer: str = "none",
    settings: EncoderSettings = SMALL,
    position_range: int | None = None,
    **own: object,
) -> Encoder:
    architecture = EncoderArchitecture(
        encoder=settings,
        positions=TypeAdapter(PositionSettings).validate_python({"kind": positions, **own}),
        mixer=TypeAdapter(MixerSettings).validate_python({"kind": mixer}),
        symbols=3,
        answers=5,
        training_length=LENGTH + OUTPUTS,
        position_range=position_range,
    )
    model = build_encoder(architecture, seed=3)
    with torch.no_grad():  # far enough from zero that everything shows in the logits
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def strings(batch: int = 2, length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(3, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("positions", ENCODINGS)
def test_every_encoding_and_mixer_as_the_reference_computes_it(positions: str, mixer: str) -> None:
    logits, gradients = {}, {}
    for backend in ("auto", "reference"):
        model = build(positions, mixer, SMALL.model_copy(update={"attention_backend": backend})).eval()
        logits[backend] = model(strings(), OUTPUTS)
        assert logits[backend].shape == (2, OUTPUTS, 5)
        logits[backend].square().sum().backward()
        gradients[backend] = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(logits["auto"], logits["reference"], rtol=1e-4, atol=1e-4)
    # against the largest: the gradient of what is added to all scores alike is zero but for rounding
    largest = max(float(gradient.abs().max()) for gradient in gradients["reference"].values() if gradient is not None)
    for name, wanted in gradients["reference"].items():
        found = gradients["auto"][name]
        if wanted is None:  # the reference leaves out what nothing depends on
            assert found is None or not found.any()
            continue
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("positions", ENCODINGS)
def test_the_first_symbol_sees_what_follows(positions: str, mixer: str) -> None:
    model = build(positions, mixer).eval()
    tokens = strings()
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 3
    layout = model.lay_out(LENGTH, tokens.device)
    first = [model.blocks[0](model.embedding(each), layout, model.shared_positions)[:, 0] for each in (tokens, changed)]
    assert not torch.allclose(*first, atol=1e-5)


def test_without_positions_the_order_of_the_symbols_means_nothing() -> None:
    model = build("none", "dape").eval()
    tokens = strings()
    torch.testing.assert_close(model(tokens, OUTPUTS), model(tokens.flip(1), OUTPUTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", sorted(set(ENCODINGS) - {"none"}))
def test_with_positions_it_does(positions: str) -> None:
    model = build(positions).eval()
    if positions == "cope":  # its embeddings start at zero
        assert model.positions.embedding.abs().sum() > 0
    tokens = strings()
    assert not torch.allclose(model(tokens, OUTPUTS), model(tokens.flip(1), OUTPUTS), atol=1e-4)


def test_norms_after_and_before_the_sums() -> None:
    for norm in ("post", "pre"):
        model = build(settings=SMALL.model_copy(update={"norm": norm})).eval()
        block, tokens = model.blocks[0], strings()
        assert isinstance(block, Block)
        x, layout = model.embedding(tokens), model.lay_out(LENGTH, tokens.device)

        def normed(x: Tensor, module: torch.nn.Module) -> Tensor:
            return functional.layer_norm(x, x.shape[-1:], module.weight, module.bias, 1e-5)

        if norm == "post":
            wanted = normed(x + block.attention(x, layout, None), block.attention_norm)
            wanted = normed(wanted + block.mlp(wanted, False), block.mlp_norm)
            assert model.norm is None
        else:
            wanted = x + block.attention(normed(x, block.attention_norm), layout, None)
            wanted = wanted + block.mlp(normed(wanted, block.mlp_norm), False)
            assert model.norm is not None
        torch.testing.assert_close(block(x, layout, None), wanted)


@pytest.mark.parametrize("positions", ENCODINGS)
def test_any_encoding_at_drawn_positions(positions: str) -> None:
    model = build(positions, position_range=50)

    def drawn(length: int, seed: int) -> Tensor:
        return model.train().lay_out(length, torch.device("cpu"), torch.Generator().manual_seed(seed)).positions

    first, again, other = drawn(20, 1), drawn(20, 1), drawn(20, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool((first.diff() > 0).all())
    assert 0 <= int(first[0]) <= int(first[-1]) < 50
    assert torch.equal(drawn(60, 1), torch.arange(60))
    model.eval()
    assert torch.equal(model(strings(), OUTPUTS), model(strings(), OUTPUTS))
    assert model(strings(), OUTPUTS).isfinite().all()


def test_dropout_is_on_in_training_alone() -> None:
    model = build(settings=SMALL.model_copy(update={"dropout": 0.3}))
    tokens = strings()
    assert not torch.equal(model.train()(tokens, OUTPUTS), model(tokens, OUTPUTS))
    assert torch.equal(model.eval()(tokens, OUTPUTS), model(tokens, OUTPUTS))


def test_a_bidirectional_encoding_shared_among_ranks_sees_all_keys() -> None:
    """Each rank's rows against all of them: what a rank of a tensor-parallel group would compute."""
    encoding = build_encoding("alibi", 4, head_dim=8, causal=False)
    q, k, v = (torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    call = Attention(q, k, v, encoding, None, torch.arange(12))
    whole, deal = Local(ALONE)(call), RowDeal(12, 2)
    for rank in range(2):
        own = attend_rows(call, deal.take(q, rank, 2), k, v, deal, rank, score_term(encoding), None)
        torch.testing.assert_close(own, deal.take(whole, rank, 2))


def test_an_unknown_backend_is_refused() -> None:
    model = build(settings=SMALL.model_copy(update={"attention_backend": "fast"}))
    with pytest.raises(AttentionError, match="unknown attention backend 'fast'"):
        model(strings(), OUTPUTS)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="hidden_size % num_heads must be 0, but 30 % 4 = 2"):
        EncoderSettings(hidden_size=30, num_heads=4)
