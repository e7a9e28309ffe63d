"""The modeling file by itself: blocks of rows, gradients, padding, pieces of a text, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from example_exports import CASES, make_architecture, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megadape.export.check import check_logits
from megadape.export.hf import modeling_megadape as modeling
from megadape.export.hf.configuration_megadape import MegadapeConfig
from megadape.export.model_files import config_values
from megadape.export.names import export_tensors, import_tensor, to_theirs
from megadape.model import GPT

KINDS = ("dape-kerple_log", "v2-fire", "dape-cope", "dape-transformer_xl", "yarn", "rope", "v2-wide", "randomized_rope")


def make_pair(name: str) -> tuple[GPT, Any]:
    ours = make_model(make_architecture(*CASES[name]))
    theirs = modeling.MegadapeForCausalLM(MegadapeConfig(**config_values(ours.architecture)))
    theirs.load_state_dict(export_tensors(dict(ours.named_parameters())))
    return ours, theirs.eval()


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[GPT, Any]]:
    return {name: make_pair(name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_blocks_of_rows_give_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = make_pair(name)
    tokens = torch.randint(0, 320, (2, 41), generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(modeling, "BLOCK_NUMBERS", 3000)  # a few rows a block
    loss = theirs.double()(tokens[:, :-1]).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(loss, tokens[:, 1:].flatten())
    loss.backward()
    ours.double().loss(tokens).backward()
    wanted = export_tensors({key: one.grad for key, one in ours.named_parameters() if one.grad is not None})
    found = {key: one.grad for key, one in theirs.named_parameters() if one.grad is not None}
    assert found.keys() == wanted.keys()
    assert max(difference(found[key], wanted[key]) for key in wanted) < 1e-9


@settings(max_examples=12)
@given(st.sampled_from(KINDS), st.lists(st.integers(1, 30), min_size=2, max_size=3), st.booleans(), st.data())
def test_a_padded_batch_gives_what_each_text_gives_alone(
    pairs: dict[str, tuple[GPT, Any]], name: str, counts: list[int], left: bool, data: Any
) -> None:
    ours, theirs = pairs[name]
    width = max(counts) + data.draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(sum(counts))
    texts = [torch.randint(0, 320, (count,), generator=generator) for count in counts]
    tokens = torch.full((len(counts), width), 5)
    mask = torch.zeros(len(counts), width, dtype=torch.long)
    spans = [slice(width - count, width) if left else slice(0, count) for count in counts]
    for row, (text, span) in enumerate(zip(texts, spans, strict=True)):
        tokens[row, span], mask[row, span] = text, 1
    with torch.no_grad():
        logits = theirs(tokens, attention_mask=mask).logits
        for row, (text, span) in enumerate(zip(texts, spans, strict=True)):
            assert difference(logits[row, span], ours(text[None])[0]) < 1e-5
    assert logits.isfinite().all()


@settings(max_examples=12)
@given(st.sampled_from(KINDS), st.lists(st.integers(1, 15), min_size=1, max_size=5))
def test_a_text_in_pieces_gives_what_the_whole_gives(
    pairs: dict[str, tuple[GPT, Any]], name: str, pieces: list[int]
) -> None:
    ours, theirs = pairs[name]
    tokens = torch.randint(0, 320, (1, sum(pieces)), generator=torch.Generator().manual_seed(len(pieces)))
    cache, done = None, 0
    with torch.no_grad():
        for piece in pieces:
            out = theirs(tokens[:, done : done + piece], past_key_values=cache, use_cache=True)
            cache, done = getattr(out, modeling.CACHE), done + piece
            # what comes before may be read otherwise once the text is longer: YaRN, randomised positions
            assert difference(out.logits[:, -1], ours(tokens[:, :done])[:, -1]) < 1e-5


def test_a_hole_in_the_mask_is_refused_where_neighbours_count(pairs: dict[str, tuple[GPT, Any]]) -> None:
    tokens, mask = torch.arange(6)[None], torch.tensor([[1, 1, 0, 0, 1, 1]])
    with torch.no_grad():
        ours, theirs = pairs["dape-kerple_log"]
        found = theirs(tokens, attention_mask=mask).logits[0, [0, 1, 4, 5]]
        assert difference(found, ours(tokens[:, [0, 1, 4, 5]])[0]) < 1e-5
        with pytest.raises(ValueError, match="padding between tokens"):
            pairs["v2-fire"][1](tokens, attention_mask=mask)


def test_a_mask_of_another_shape_is_refused(pairs: dict[str, tuple[GPT, Any]]) -> None:
    with pytest.raises(ValueError, match=r"attention_mask must be .*\[1, 6\], but is \[1, 5\]"):
        pairs["rope"][1](torch.arange(6)[None], attention_mask=torch.ones(1, 5))
    with pytest.raises(ValueError, match="one of them"):
        pairs["rope"][1]()


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown kind 'ropes'; known: none, rope, yarn"):
        modeling.MegadapeForCausalLM(MegadapeConfig(positions={"kind": "ropes"}))


@pytest.mark.parametrize("name", ["dape-fire", "v2-cope", "kerple_power", "dape-transformer_xl", "t5", "learned"])
def test_a_model_from_its_configuration_alone_is_drawn_as_ours_is(name: str) -> None:
    """transformers fills what is not loaded: every parameter must get an initial value of our distribution."""
    architecture = make_architecture(*CASES[name], num_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = modeling.MegadapeForCausalLM(MegadapeConfig(**config_values(architecture)))
        ours = export_tensors(dict(GPT(architecture).named_parameters()))
    for key, parameter in theirs.named_parameters():
        assert parameter.isfinite().all(), key
        found, wanted = (float(one.detach().square().mean().sqrt()) for one in (parameter, ours[key]))
        # few numbers scatter: a bias of four
        assert found == pytest.approx(wanted, rel=0.15 if parameter.numel() > 200 else 1.0), key


def test_labels_give_the_loss_and_train(pairs: dict[str, tuple[GPT, Any]]) -> None:
    ours, theirs = make_pair("dape-kerple_log")
    tokens = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(4))
    first = theirs.train()(tokens, labels=tokens).loss.detach()
    assert float(first) == pytest.approx(float(ours.loss(tokens).detach()), rel=1e-5)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        theirs(tokens, labels=tokens).loss.backward()
        optimizer.step()
    assert float(theirs(tokens, labels=tokens).loss.detach()) < float(first) - 0.5


def test_names_and_shapes_return(pairs: dict[str, tuple[GPT, Any]]) -> None:
    for ours, _ in pairs.values():
        held = dict(ours.named_parameters())
        theirs = export_tensors(held)
        for name, tensor in held.items():
            assert torch.equal(import_tensor(name, theirs[to_theirs(name)]), tensor)


def test_a_model_that_computes_something_else_is_found_out(trained: Any, tmp_path: Any) -> None:
    from megadape.errors import ExportError
    from megadape.export.exporting import ExportRequest, export_run
    from megadape.export.source import open_source

    export_run(ExportRequest(trained, tmp_path / "hf"))
    source = open_source(trained)
    model, tokens = source.build_model(), torch.from_numpy(source.sample_tokens(64))
    assert check_logits(model, tmp_path / "hf", tokens) < 1e-5
    with torch.no_grad():
        model.blocks["1"].attention.mixer.w2[0, 0] += 0.05
    with pytest.raises(ExportError, match="logits differ from the run's by"):
        check_logits(model, tmp_path / "hf", tokens)
