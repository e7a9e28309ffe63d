"""Texts that are written together are those that are written alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from megadape.data import tokenizer_settings
from megadape.errors import DataError
from megadape.generation import Generation, GenerationSettings, News, generate
from megadape.model import GPT, Architecture, build_gpt

BYTES = tokenizer_settings("byte").build()
PROMPTS = ("def", "", "import sys", "x", "déf", "class A:", "def", "return x + yz")


def model_of(kind: str = "kerple_log", mixer: str = "dape", seed: int = 5, scale: float = 6.0) -> GPT:
    """Its output layer is enlarged: what it draws differs from prompt to prompt, and greedily too."""
    architecture = Architecture.model_validate(
        {
            "model": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "vocab_size": 320},
            "positions": {"kind": kind},
            "mixer": {"kind": mixer},
            "training_length": 8,
        }
    )
    model = build_gpt(architecture, seed=seed).eval()
    assert model.head is not None
    model.head.weight.data *= scale
    return model


def write(model: GPT, prompts: Any = PROMPTS, **settings: Any) -> list[Generation]:
    return generate(model, prompts, GenerationSettings(**{"max_tokens": 24, **settings}), tokenizer=BYTES)


@pytest.mark.parametrize(
    ("kind", "temperature"), [("kerple_log", 0.9), ("rope", 0.0), ("yarn", 0.7), ("fire", 0.0), ("cope", 1.2)]
)
def test_a_text_does_not_depend_on_those_beside_it(kind: str, temperature: float) -> None:
    model = model_of(kind)
    together = write(model, max_tokens=14, temperature=temperature, samples=2, batch_size=5)
    assert [(each.prompt, each.sample) for each in together] == list(product(range(len(PROMPTS)), range(2)))
    for number, prompt in enumerate(PROMPTS):
        settings = GenerationSettings(max_tokens=14, temperature=temperature, samples=2, batch_size=1)
        alone = generate(model, [prompt], settings, tokenizer=BYTES, first=number)
        assert alone == together[2 * number : 2 * number + 2]
    texts = [each.tokens for each in together]
    # the same prompt twice has random numbers of its own each time, and so has each sample
    assert (texts[0] == texts[12]) == (texts[0] == texts[1]) == (temperature == 0)


def test_greedy_texts_are_the_likeliest_of_the_whole_model() -> None:
    model = model_of("alibi", "dape_v2")
    for each in write(model, temperature=0, ignore_end=True):
        ids = list(each.prompt_tokens)
        for token in each.tokens:
            with torch.no_grad():
                logits = model(torch.tensor([ids]))[0, -1, : BYTES.vocab_size]
            assert logits[token] >= logits.max() - 1e-4
            ids.append(token)
        assert (len(each.tokens), each.reason) == (24, "length")


def test_a_seed_gives_a_text_and_another_seed_another() -> None:
    model = model_of()
    first, again, other = (write(model, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert all(a.tokens != b.tokens for a, b in zip(first, other, strict=True))
    longer = write(model, seed=1, max_tokens=40)
    assert all(b.tokens[: len(a.tokens)] == a.tokens for a, b in zip(first, longer, strict=True))


def test_a_text_ends_with_its_document() -> None:
    model = model_of(scale=0.0)  # all tokens are alike
    texts = write(model, max_tokens=100, seed=3)
    ended = [each for each in texts if each.reason == "end_of_document"]
    assert ended
    for each in ended:
        assert each.tokens.index(BYTES.eod) == len(each.tokens) - 1
        assert each.text == BYTES.decode(each.tokens)
    on = write(model, max_tokens=100, seed=3, ignore_end=True)
    assert {each.reason for each in on} == {"length"}
    assert all(b.tokens[: len(a.tokens)] == a.tokens for a, b in zip(texts, on, strict=True))


def test_a_text_ends_before_a_stop_string_and_with_it_on_request() -> None:
    model = model_of()
    plain = write(model, PROMPTS[:4], max_tokens=40)
    for each in plain:
        ids = [*each.prompt_tokens, *each.tokens]
        text = BYTES.decode(ids)[len(BYTES.decode(ids[: len(each.prompt_tokens)])) :]
        assert each.text == text
        stop = text[10:13]
        (stopped,) = generate(
            model,
            [PROMPTS[each.prompt]],
            GenerationSettings(max_tokens=40, stop=("never written", stop)),
            tokenizer=BYTES,
            first=each.prompt,
        )
        assert (stopped.text, stopped.reason) == (text[: text.find(stop)], "stop")
        assert stopped.tokens == each.tokens[: len(stopped.tokens)]
        settings = GenerationSettings(max_tokens=40, stop=(stop,), keep_stop=True)
        (kept,) = generate(model, [PROMPTS[each.prompt]], settings, tokenizer=BYTES, first=each.prompt)
        assert kept.text == text[: text.find(stop) + len(stop)]
        assert kept.tokens == stopped.tokens


def test_what_is_told_makes_the_texts() -> None:
    told: dict[tuple[int, int], list[News]] = {}
    texts = generate(
        model_of(),
        PROMPTS,
        GenerationSettings(max_tokens=30, samples=2, stop=("e",), batch_size=3),
        tokenizer=BYTES,
        listener=lambda news: told.setdefault((news.prompt, news.sample), []).append(news),
    )
    for each in texts:
        news = told[each.prompt, each.sample]
        assert "".join(one.text for one in news) == each.text
        assert [one.ended for one in news] == [False] * (len(each.tokens) - 1) + [True]


def test_a_penalty_keeps_a_model_from_repeating_itself() -> None:
    model = model_of()
    plain, punished = (write(model, temperature=0, repetition_penalty=penalty, max_tokens=40) for penalty in (1.0, 1e6))
    for each in punished:
        ids = [*each.prompt_tokens, *each.tokens]
        assert len(set(each.tokens)) == len(each.tokens)
        assert not set(each.tokens) & set(ids[: len(each.prompt_tokens)])
    assert any(len(set(each.tokens)) < len(each.tokens) for each in plain)


def test_no_token_is_drawn_that_the_tokenizer_does_not_know() -> None:
    model = model_of(scale=0.0)  # all of the vocabulary, rounded up to 320, are alike
    drawn = {token for each in write(model, max_tokens=60, ignore_end=True) for token in each.tokens}
    assert max(drawn) < BYTES.vocab_size
    ids = [BYTES.encode(prompt).tolist() for prompt in PROMPTS if prompt]
    texts = generate(model, ids, GenerationSettings(max_tokens=60))
    assert max(token for each in texts for token in each.tokens) >= BYTES.vocab_size
    assert {each.text for each in texts} == {""}


def test_ids_are_prompts_too() -> None:
    model = model_of()
    ids = [BYTES.encode(prompt).tolist() for prompt in PROMPTS]
    assert write(model, ids) == write(model)


def test_an_empty_prompt_begins_a_document() -> None:
    (each,) = write(model_of(), [""])
    assert each.prompt_tokens == (BYTES.eod,)
    with pytest.raises(DataError, match="prompt 2 is empty"):
        generate(model_of(), [[1], []], GenerationSettings())
    assert generate(model_of(), [], GenerationSettings()) == []


def test_prompts_that_a_model_cannot_read_are_named() -> None:
    model = model_of()
    with pytest.raises(DataError, match="prompt 1 has token 320, but the model knows 320"):
        write(model, [[320]])
    with pytest.raises(DataError, match="need a tokenizer"):
        generate(model, ["text"], GenerationSettings())
    with pytest.raises(DataError, match="stop strings need a tokenizer"):
        generate(model, [[1]], GenerationSettings(stop=("a",)))
