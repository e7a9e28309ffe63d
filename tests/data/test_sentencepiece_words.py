"""SentencePiece in batches: the ids of the library's own way, one text after the other, for models of every make."""

import atexit
import io
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.data import tokenizer_settings
from megadape.data.tokenizers import sentencepiece_words
from megadape.data.tokenizers.sentencepiece import SentencePieceTokenizer
from megadape.data.tokenizers.sentencepiece_model import read_properties
from megadape.data.tokenizers.sentencepiece_words import SPACE

CORPUS = Path(json.__file__).parent

OURS: dict[str, Any] = {
    **{"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
    **{"remove_extra_whitespaces": False, "add_dummy_prefix": False, "allow_whitespace_only_pieces": True},
    "user_defined_symbols": ["\n", "\t"],
}
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "ours": (OURS, True),
    "pieces of letters and all else": (OURS | {"split_by_unicode_script": False, "split_by_number": False}, True),
    "no newline": (OURS | {"user_defined_symbols": ["\t", "é!"]}, True),
    "symbols": (OURS | {"user_defined_symbols": ["\n", "self.", "\t\t", "  x"]}, True),
    "pieces over white space": (OURS | {"split_by_whitespace": False}, False),
    "a symbol over white space": (OURS | {"user_defined_symbols": ["\n", "of the"]}, False),
    "lines in a symbol": (OURS | {"user_defined_symbols": ["\n", "a\nb"]}, False),
    "dummy prefix": (OURS | {"add_dummy_prefix": True}, False),
    "white space behind": (OURS | {"treat_whitespace_as_suffix": True}, False),
    "normalised": (OURS | {"normalization_rule_name": "nmt_nfkc"}, False),
    "no bytes": (OURS | {"byte_fallback": False}, False),
    "unigram": (OURS | {"model_type": "unigram"}, False),
}
"""Name -> the trainer's options, and whether words of a text can be encoded apart."""


@cache
def model(name: str) -> Path:
    from sentencepiece import SentencePieceTrainer

    home = Path(mkdtemp(prefix="sentencepiece-"))
    atexit.register(shutil.rmtree, home)
    content = io.BytesIO()
    text = "\n".join(path.read_text() for path in sorted(CORPUS.glob("*.py"))).replace("\t", " ")
    lines = [line for line in text.splitlines() if line.strip()] + ["résumé — naïve “quoted”, 日本語。"] * 5
    options = {"vocab_size": 700, "minloglevel": 2, "character_coverage": 0.9995, "num_threads": 1}
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=content, **options, **MODELS[name][0])
    (home / "tokenizer.model").write_bytes(content.getvalue())
    return home / "tokenizer.model"


@cache
def build(name: str, special: str = "text") -> SentencePieceTokenizer:
    built = tokenizer_settings("sentencepiece", model=model(name), special_tokens_in_text=special).build()
    assert isinstance(built, SentencePieceTokenizer)
    return built


STRINGS = [
    "</s>",
    "<s>",
    "<unk>",
    "▁",
    "self.",
    "of the",
    "a\nb",
    "  x",
    "\n \n",
    "\t\t",
    " ",
    "    ",
    "é!",
    "“a”,",
    "日本",
    "x1,",
]
TEXTS = st.lists(st.text() | st.sampled_from(STRINGS) | st.text(alphabet=" \n\tab.1_é")).map("".join)


@pytest.mark.parametrize("name", MODELS)
@given(texts=st.lists(TEXTS, max_size=4))
def test_a_batch_is_what_the_library_gives_one_by_one(name: str, texts: list[str]) -> None:
    tokenizer = build(name)
    ids = [found.tolist() for found in tokenizer.encode_batch(texts)]
    for text, found in zip(texts, ids, strict=True):
        assert found == tokenizer.encode(text).tolist()
        if SPACE not in text:
            assert found == tokenizer._model.encode(text)
    special = build(name, "special")
    assert [found.tolist() for found in special.encode_batch(texts)] == [special.encode(t).tolist() for t in texts]


@pytest.mark.parametrize("name", MODELS)
def test_real_files_in_a_batch(name: str) -> None:
    tokenizer = build(name)
    texts = [path.read_text() for path in sorted(CORPUS.parent.glob("d*.py"))]
    assert (tokenizer._words is not None) == MODELS[name][1]
    for _ in range(2):
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert ids.tolist() == tokenizer._model.encode(text)


def test_properties_are_those_that_the_file_states() -> None:
    wrong = {"dummy prefix", "white space behind", "normalised"}
    for name in MODELS:
        properties = read_properties(model(name).read_bytes())
        assert properties.is_bpe == (name != "unigram")
        assert properties.keeps_text == (name not in wrong)


def test_words_are_as_short_as_the_pieces_allow() -> None:
    chosen = {name: build(name)._words for name in MODELS if MODELS[name][1]}
    places = {
        name: sentencepiece_words._WORDS.index(words._expression.pattern) for name, words in chosen.items() if words
    }
    assert places["ours"] < places["pieces of letters and all else"] < places["symbols"]


def test_a_full_memory_and_long_texts_change_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text() for path in sorted(CORPUS.parent.glob("d*.py"))]
    wanted = [build("ours")._model.encode(text) for text in texts]
    tokenizer = tokenizer_settings("sentencepiece", model=model("ours")).build()
    for limit, value in (("_MOST_WORDS", 50), ("LONG_TEXT", 997)):
        monkeypatch.setattr(sentencepiece_words, limit, value)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer._words is not None
    for _ in range(2):
        assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == wanted
    assert len(tokenizer._words._places) < 500
    pieces = tokenizer._words.pieces(texts[0])
    assert "".join(pieces) == texts[0]
    assert np.median([len(piece) for piece in pieces]) < 1100
