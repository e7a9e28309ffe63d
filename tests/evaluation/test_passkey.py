"""Passkey retrieval: texts as they are said to be, keys scored as reading each of them would score it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_tokenizers import tokenizer

from megadape.data import DataSettings
from megadape.errors import EvaluationError
from megadape.evaluation.passkey.plan import plan_passkey
from megadape.evaluation.passkey.reading import score_keys
from megadape.evaluation.passkey.texts import NEEDLE, QUESTION, draw_trials, encode_answers, make_filler
from megadape.evaluation.pieces import Worker, measure_all
from megadape.evaluation.sets import EvaluationText, TextSource
from megadape.evaluation.settings import EvaluationSettings, PasskeySettings
from megadape.model import GPT, Architecture, build_gpt

NAMES = ("byte", "unigram", "bpe")
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((kind, {"kind": "dape", "hidden": 6}) for kind in ("kerple_log", "fire", "t5", "transformer_xl", "none")),
    *((kind, {"kind": "none"}) for kind in ("rope", "cope", "learned", "randomized_rope", "alibi", "yarn")),
    ("alibi", {"kind": "dape_v2", "hidden": 5}),
)


@given(
    st.sampled_from(NAMES),
    st.integers(0, 700),
    st.floats(0, 1),
    st.integers(1, 9),
    st.integers(2, 6),
    st.integers(0, 2**63 - 1),
    st.sampled_from([None, "The grass is green.", "x"]),
)
def test_a_text_is_as_long_as_asked_for_and_hides_its_key(
    name: str, extra: int, depth: float, digits: int, candidates: int, seed: int, sentence: str | None
) -> None:
    own = tokenizer(name)
    settings = PasskeySettings(digits=digits, candidates=candidates, seed=seed, filler=sentence, trials=2)
    stream = np.arange(1, 301)
    filler = make_filler(settings, own, stream, 900)
    for trial in draw_trials(settings, own, filler):
        length = trial.frame + extra
        text = trial.lay_out(length, depth, filler)
        assert len(text) == length + 1
        needle, keys = trial.needle, trial.keys
        place = int(depth * extra + 0.5)
        assert text[place : place + len(needle)].tolist() == needle.tolist()
        end = len(text) - len(trial.question) - keys.shape[1]
        around = np.concatenate([text[:place], text[place + len(needle) : end]])
        assert around.tolist() == np.resize(np.roll(filler, -trial.start), extra).tolist()
        asked = own.decode(text[end:])
        key = asked.removeprefix(QUESTION)
        assert asked == QUESTION + key
        assert own.decode(needle) == NEEDLE.format(key=key)
        others = [own.decode(np.concatenate([trial.question, other])).removeprefix(QUESTION) for other in keys]
        assert len(set(others)) == len(keys) == candidates
        assert all(other.isdecimal() and len(other) == digits for other in others)


def test_trials_depend_on_the_seed_and_on_nothing_else() -> None:
    def keys(**changes: Any) -> list[list[list[int]]]:
        settings = PasskeySettings.model_validate({"trials": 3, "lengths": (500,)} | changes)
        return [trial.keys.tolist() for trial in draw_trials(settings, tokenizer("byte"), np.arange(50))]

    assert keys() == keys(trials=5)[:3] == keys(depths=(0.5,), lengths=(900, 1000))
    assert keys() != keys(seed=1)
    assert len({str(trial) for trial in keys(trials=20)}) == 20
    # written down: the same on every machine and in every version
    first = tokenizer("byte").decode(np.array(keys()[0][0]))
    assert first == "38773"


def test_candidates_have_as_many_tokens_as_the_key() -> None:
    own = tokenizer("bpe")
    names = [f"{number:05}" for number in range(10_000, 12_000, 7)]
    question, keys = encode_answers(own, names, 8)
    assert own.decode(np.concatenate([question, keys[0]])) == QUESTION + names[0]
    assert keys.shape[0] == 8
    with pytest.raises(EvaluationError, match="only 2 have"):
        encode_answers(own, names[:2], 3)
    with pytest.raises(ValidationError, match="raise digits"):
        PasskeySettings(digits=1, candidates=11)


def model_of(kind: str, mixer: dict[str, Any], vocabulary: int = 31) -> GPT:
    shape = {"num_layers": 2, "hidden_size": 64, "num_heads": 2, "vocab_size": vocabulary}
    each = Architecture.model_validate(
        {"model": shape, "positions": {"kind": kind}, "mixer": mixer, "training_length": 16}
    )
    return build_gpt(each, seed=5).double().eval()


@torch.no_grad()
@pytest.mark.parametrize(("kind", "mixer"), CASES, ids=lambda value: value if isinstance(value, str) else value["kind"])
def test_one_reading_scores_keys_as_reading_each_of_them_does(kind: str, mixer: dict[str, Any]) -> None:
    model, random = model_of(kind, mixer), torch.Generator().manual_seed(0)
    for length, count in ((40, 4), (11, 1), (7, 6)):
        texts = torch.randint(31, (2, length + 1), generator=random)
        keys = torch.randint(31, (2, 3, count), generator=random)
        texts[:, -count:] = keys[:, 0]
        losses, written = score_keys(model, texts[:, :-1], keys)
        for candidate in range(3):
            each = torch.cat([texts[:, :-count], keys[:, candidate]], dim=1)
            wanted = model.last_losses(each, count).sum(dim=1)
            assert (losses[:, candidate] - wanted).abs().max() < 1e-10
        likeliest = model(texts[:, :-1])[:, -count:].argmax(-1)
        assert written.tolist() == (likeliest == keys[:, 0]).all(dim=1).tolist()


def decode_greedily(model: GPT, text: torch.Tensor, count: int) -> torch.Tensor:
    """[b, s] -> the next tokens [b, count], one at a time."""
    start = text.shape[1]
    for _ in range(count):
        text = torch.cat([text, model(text)[:, -1:].argmax(-1)], dim=1)
    return text[:, start:]


@torch.no_grad()
@pytest.mark.parametrize("case", [CASES[0], CASES[5], CASES[-1]], ids=["dape", "rope", "dape_v2"])
def test_written_means_that_greedy_decoding_writes_the_key(case: tuple[str, dict[str, Any]]) -> None:
    model, random = model_of(*case, vocabulary=7), torch.Generator().manual_seed(1)
    told = []
    for count, change in product((1, 2, 4), (None, 0, -1)):
        prompts = torch.randint(7, (3, 20), generator=random)
        decoded = decode_greedily(model, prompts, count)
        key = decoded.clone()
        if change is not None:
            key[:2, change] = (key[:2, change] + 1) % 7
        keys = torch.stack([key, (key + 1) % 7], dim=1)
        _, written = score_keys(model, torch.cat([prompts, key[:, :-1]], dim=1), keys)
        assert written.tolist() == (decoded == key).all(dim=1).tolist()
        told += written.tolist()
    assert 0 < sum(told) < len(told)


def source(corpus: Path) -> TextSource:
    return TextSource("text", DataSettings(prefix=corpus), "valid")


@torch.no_grad()
def test_results_are_the_shares_of_trials(corpus: Path) -> None:
    model = model_of(*CASES[0], vocabulary=257).float()
    asked = {"depths": (0, 0.5, 1), "trials": 4, "candidates": 3}
    settings = EvaluationSettings.model_validate({"lengths": (16, 200, 150), "passkey": asked, "batch_tokens": 700})
    text = EvaluationText(np.random.default_rng(0).integers(0, 250, 1000), np.ones(257))
    plan = plan_passkey(source(corpus), text, settings)
    found = plan.collect(measure_all(plan.series(), Worker(model, torch.device("cpu"))), 16)
    assert (found.candidates, found.training_length) == (3, 16)
    # 16 tokens do not hold the sentences
    assert [(place.length, place.depth) for place in found.places] == list(product((150, 200), (0, 0.5, 1)))
    for place in found.places:
        likeliest = exact = 0
        losses = []
        for trial in plan.trials:
            tokens = torch.from_numpy(trial.lay_out(place.length, place.depth, plan.filler))[None]
            scores, written = score_keys(model, tokens[:, :-1], torch.from_numpy(trial.keys)[None])
            likeliest += bool((scores[0, 0] < scores[0, 1:]).all())
            exact += bool(written)
            losses.append(scores[0, 0].item() / trial.keys.shape[1])
        assert (place.trials, place.likelihood, place.exact) == (4, likeliest / 4, exact / 4)
        assert place.key_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_lengths_that_hold_no_key_are_named(corpus: Path) -> None:
    text = EvaluationText(np.zeros(1000, np.int64), np.ones(257))
    for asked in ({"lengths": (16,)}, {"passkey": {"lengths": (16, 500)}}):
        settings = EvaluationSettings.model_validate({"passkey": {}} | asked)
        with pytest.raises(EvaluationError, match="more than length 16"):
            plan_passkey(source(corpus), text, settings)
