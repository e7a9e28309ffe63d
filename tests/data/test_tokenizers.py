"""Tokenizers: round trips, bytes per token, special tokens as text, the ids of the reference, identity, errors."""

import atexit
import io
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadape.data import Tokenizer, tokenizer_settings
from megadape.data.tokenizers.train import TrainProgress, TrainTokenizerSettings, train_tokenizer
from megadape.errors import DataError, TokenizerError

CORPUS = Path(json.__file__).parent
EXACT = ["byte", "sentencepiece-bpe", "sentencepiece-unigram", "huggingface", "gpt2"]
AWKWARD = [
    "",
    "\0",
    "a\0b",
    "\n",
    "\n\n\n",
    "\r\n\r",
    "\t\tx\t",
    " ",
    "   a   ",
    "▁",
    "a▁b ▁ ▁▁",
    "</s>",
    "<s>x</s>",
    "<|endoftext|>",
    "a <|endoftext|><|endoftext|> b",
    "<unk>",
    "<0x41>",
    "\ufeff",
    "é e\u0301 \u00a0\u2003\u200b",
    "⁇ \u2047 \u2585",
    "😀 日本語 العربية",
    "\x01\x02\x1b\x7f\x85",
    "\ufffd\uffff\U0010ffff",
    "def f(x):\n    return x  # comment\n",
]


@cache
def folder() -> Path:
    """Trained models, made once for all tests of this process."""
    home = Path(mkdtemp(prefix="tokenizers-"))
    atexit.register(shutil.rmtree, home)
    common: dict[str, Any] = {"inputs": (CORPUS,), "text_suffixes": (".py",)}
    for algorithm in ("bpe", "unigram"):
        output = home / f"{algorithm}.model"
        train_tokenizer(TrainTokenizerSettings(output=output, model_type=algorithm, vocab_size=600, **common))
    train_tokenizer(TrainTokenizerSettings(output=home / "tokenizer.json", kind="bpe", vocab_size=600, **common))
    model = json.loads((home / "tokenizer.json").read_text())["model"]
    (home / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (home / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return home


@cache
def build(name: str, special: str = "text", **more: Any) -> Tokenizer:
    home = folder()
    options: dict[str, dict[str, Any]] = {
        "byte": {"kind": "byte"},
        "sentencepiece-bpe": {"kind": "sentencepiece", "model": home / "bpe.model"},
        "sentencepiece-unigram": {"kind": "sentencepiece", "model": home / "unigram.model"},
        "huggingface": {"kind": "huggingface", "model": home / "tokenizer.json"},
        "gpt2": {"kind": "gpt2", "vocab": home / "vocab.json", "merges": home / "merges.txt"},
    }
    return tokenizer_settings(**options[name], special_tokens_in_text=special, **more).build()


def check(name: str, text: str) -> None:
    tokenizer = build(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())
    assert tokenizer.eod not in ids
    assert ids.dtype == np.int32


@pytest.mark.parametrize("name", EXACT)
@given(text=st.text())
def test_every_text_comes_back_with_all_its_bytes(name: str, text: str) -> None:
    check(name, text)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_come_back(name: str, text: str) -> None:
    check(name, text)


@pytest.mark.parametrize("name", EXACT)
def test_real_files_come_back(name: str) -> None:
    for path in sorted(CORPUS.glob("*.py")):
        check(name, path.read_text())


@pytest.mark.parametrize("name", EXACT)
def test_a_batch_is_its_texts(name: str) -> None:
    tokenizer = build(name)
    batch = tokenizer.encode_batch(AWKWARD)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text).tolist() for text in AWKWARD]
    flat, lengths = tokenizer.encode_flat(AWKWARD)
    assert flat.tolist() == [i for ids in batch for i in ids]
    assert lengths.tolist() == [len(ids) for ids in batch]
    assert tokenizer.encode_batch([]) == []
    assert [array.tolist() for array in tokenizer.encode_flat([])] == [[], []]


@pytest.mark.parametrize("name", EXACT)
def test_the_end_of_a_document_is_no_text(name: str) -> None:
    tokenizer = build(name)
    sizes = tokenizer.token_bytes()
    assert sizes.shape == (tokenizer.vocab_size,)
    assert sizes[tokenizer.eod] == 0
    assert tokenizer.decode([tokenizer.eod]) == ""
    assert tokenizer.decode([*tokenizer.encode("a b"), tokenizer.eod, *tokenizer.encode(" c")]) == "a b c"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", EXACT)
def test_a_half_character_becomes_a_replacement(name: str) -> None:
    tokenizer = build(name)
    ids = tokenizer.encode("日")
    assert len(ids) == 3
    assert "\ufffd" in tokenizer.decode(ids[:2])


@pytest.mark.parametrize("name", EXACT)
def test_ids_outside_of_the_vocabulary_are_refused(name: str) -> None:
    tokenizer = build(name)
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=f"token id {wrong} is outside"):
            tokenizer.decode([0, wrong])


@pytest.mark.parametrize("name", EXACT)
def test_a_lone_surrogate_is_refused(name: str) -> None:
    tokenizer = build(name)
    for text in ("\ud800", "ab\udfff"):
        with pytest.raises(TokenizerError, match="surrogate"):
            tokenizer.encode(text)
        with pytest.raises(TokenizerError, match="surrogate"):
            tokenizer.encode_batch(["fine", text])


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("sentencepiece-bpe", "</s>"),
        ("sentencepiece-unigram", "</s>"),
        ("huggingface", "<|endoftext|>"),
        ("gpt2", "<|endoftext|>"),
    ],
)
def test_special_tokens_in_texts_are_an_explicit_choice(name: str, literal: str) -> None:
    text = f"one{literal}two"
    assert build(name).eod not in build(name).encode(text)
    special = build(name, "special")
    ids = special.encode(text).tolist()
    assert ids == [*special.encode("one"), special.eod, *special.encode("two")]
    assert special.digest != build(name).digest


def test_the_ids_of_bytes() -> None:
    tokenizer = build("byte")
    assert tokenizer.encode("aé").tolist() == [97, 195, 169]
    assert (tokenizer.vocab_size, tokenizer.eod) == (257, 256)


@given(text=st.text() | st.text(alphabet=" \n\t\r\x0b\x1c\x85\u00a0\u2003\u3000a1.'sé"))
def test_gpt2_ids_equal_the_tokenizers_library(text: str) -> None:
    ids = build("gpt2", fast="always").encode(text).tolist()
    assert ids == build("gpt2", fast="never").encode(text).tolist()
    assert ids == build("huggingface", fast="never").encode(text).tolist()


@pytest.mark.parametrize(
    "text",
    [
        " " * 300_000,
        " \n" * 150_000 + "x",
        "\u3000" * 200_000 + " x" + "\n" * 200_000 + "y",
        "a" * 200_000,
        "\n" * 1_200_000 + "é",
    ],
    ids=["spaces", "lines", "wide", "letters", "beyond the stack"],
)
def test_gpt2_long_runs_equal_the_tokenizers_library(text: str) -> None:
    gpt2 = build("gpt2")
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == text
    if len(text) < 1_000_000:
        assert ids.tolist() == build("huggingface", fast="never").encode(text).tolist()


def test_gpt2_ids_need_not_follow_the_merges(tmp_path: Path) -> None:
    """A vocabulary whose ids are shuffled keeps its own ids."""
    vocab = json.loads((folder() / "vocab.json").read_text())
    shuffled = {token: len(vocab) - 1 - i for token, i in vocab.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(shuffled))
    other = tokenizer_settings("gpt2", vocab=tmp_path / "vocab.json", merges=folder() / "merges.txt").build()
    text = "for line in lines:"
    assert (len(vocab) - 1 - build("gpt2").encode(text)).tolist() == other.encode(text).tolist()
    assert other.decode(other.encode(text)) == text
    assert other.digest != build("gpt2").digest


def gpt2_files(home: Path, merges: str, **changes: int) -> dict[str, Path]:
    vocab = json.loads((folder() / "vocab.json").read_text()) | changes
    (home / "vocab.json").write_text(json.dumps(vocab))
    (home / "merges.txt").write_text(merges)
    return {"vocab": home / "vocab.json", "merges": home / "merges.txt"}


@pytest.mark.parametrize(
    ("merges", "changes", "message"),
    [
        ("a b c\n", {}, "merges.txt, line 1: 'a b c' is not a pair"),
        ("#version: 0.2\na b\nnothing\n", {"ab": 9000}, "merges.txt, line 3"),
        ("q q\n", {}, "lacks the token b'qq'"),
    ],
)
def test_gpt2_files_that_do_not_fit_are_refused(
    tmp_path: Path, merges: str, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer_settings("gpt2", **gpt2_files(tmp_path, merges, **changes)).build()


@pytest.mark.parametrize(
    ("merges", "changes"),
    [("b c\na b\nab c\n", {"ab": 9000, "bc": 9001, "abc": 9002}), ("a b\na b\n", {"ab": 9000})],
)
def test_gpt2_merges_that_ranks_cannot_express_are_left_to_the_library(
    tmp_path: Path, merges: str, changes: dict[str, int]
) -> None:
    files = gpt2_files(tmp_path, merges, **changes)
    with pytest.raises(TokenizerError, match=r"\(fast: always\): the merge .* does not follow from the merges before"):
        tokenizer_settings("gpt2", **files, fast="always").build()
    # b and c are merged first where there is such a merge, and nothing then
    wanted = [9001] if "bc" in changes else [9000]
    assert set(wanted) < set(tokenizer_settings("gpt2", **files).build().encode("abc").tolist())


def test_gpt2_digests_do_not_depend_on_the_way() -> None:
    assert build("gpt2", fast="always").digest == build("gpt2", fast="never").digest == build("gpt2").digest


def test_gpt2_without_an_end_of_document_says_so(tmp_path: Path) -> None:
    files = gpt2_files(tmp_path, "")
    with pytest.raises(TokenizerError, match=r"has no '<eos>'.*eod_token"):
        tokenizer_settings("gpt2", **files, eod_token="<eos>").build()
    files["vocab"].write_text('{"a": 0, "b": 0, "<|endoftext|>": 1}')
    with pytest.raises(TokenizerError, match="same id to two tokens"):
        tokenizer_settings("gpt2", **files).build()


def test_huggingface_truncation_padding_and_added_tokens_are_off(tmp_path: Path) -> None:
    spec = json.loads((folder() / "tokenizer.json").read_text())
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    spec["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    # an end that is not marked as special would be found in texts
    spec["added_tokens"][0]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = tokenizer_settings("huggingface", model=tmp_path / "tokenizer.json").build()
    text = "a longer <|endoftext|> text"
    assert tokenizer.encode(text).tolist() == build("huggingface").encode(text).tolist()


def test_a_sentencepiece_model_of_other_making_keeps_its_ids(tmp_path: Path) -> None:
    """Normalisation, a dummy prefix, and an end that is an ordinary symbol: the library's ids, no end in texts."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    content = io.BytesIO()
    lines = [line for path in sorted(CORPUS.glob("*.py")) for line in path.read_text().splitlines()]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=content,
        vocab_size=500,
        user_defined_symbols=["<|endoftext|>"],
        minloglevel=2,
    )
    path = tmp_path / "other.model"
    path.write_bytes(content.getvalue())
    library = SentencePieceProcessor(model_proto=content.getvalue())
    tokenizer = tokenizer_settings("sentencepiece", model=path, eod_token="<|endoftext|>").build()
    for text in ("def f(x):  return x", "x ▁ y", ""):
        assert tokenizer.encode(text).tolist() == library.encode(text)
    assert tokenizer.eod == library.piece_to_id("<|endoftext|>")
    assert tokenizer.eod in library.encode("a<|endoftext|>b")
    assert tokenizer.eod not in tokenizer.encode("a<|endoftext|><|endoftext|>b<|endoftext|>")
    special = tokenizer_settings(
        "sentencepiece", model=path, eod_token="<|endoftext|>", special_tokens_in_text="special"
    ).build()
    assert special.encode("a<|endoftext|>b").tolist().count(special.eod) == 1


def test_a_digest_is_the_same_in_another_process() -> None:
    code = (
        "import sys; from megadape.data import tokenizer_settings\n"
        "print(tokenizer_settings('sentencepiece', model=sys.argv[1]).build().digest)"
    )
    command = [sys.executable, "-c", code, str(folder() / "bpe.model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == build("sentencepiece-bpe").digest
    assert len({build(name).digest for name in EXACT}) == len(EXACT)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("sentencepiece", None, "cannot read the SentencePiece model .*: No such file"),
        ("sentencepiece", b"garbage", "is not a SentencePiece model"),
        ("sentencepiece", b"", "is empty"),
        ("huggingface", None, "cannot read the tokenizer file"),
        ("huggingface", b"{", "not valid JSON"),
        ("huggingface", b"[]", "has no model"),
        ("huggingface", b'{"model": {"type": "Nothing"}}', "cannot|can read"),
    ],
)
def test_files_that_are_no_tokenizer_are_named(tmp_path: Path, kind: str, content: bytes | None, message: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as error:
        tokenizer_settings(kind, model=path).build()
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("bpe", {}, "no tokenizer 'bpe': choose one of byte, sentencepiece, huggingface, gpt2"),
        ("sentencepiece", {}, "sentencepiece tokenizer: model: Field required; its options are model"),
        ("byte", {"model": "x"}, "byte tokenizer: model: Extra inputs"),
        ("gpt2", {"vocab": "x"}, "gpt2 tokenizer: merges: Field required"),
        ("byte", {"special_tokens_in_text": "special"}, "byte tokenizer: special_tokens_in_text"),
    ],
)
def test_wrong_settings_say_what_is_wanted(kind: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer_settings(kind, **options)


def test_a_name_that_no_vocabulary_has_is_refused() -> None:
    for kind, name in (("sentencepiece", "bpe.model"), ("huggingface", "tokenizer.json")):
        with pytest.raises(TokenizerError, match=r"'<nothing>'.*eod_token"):
            tokenizer_settings(kind, model=folder() / name, eod_token="<nothing>").build()


@pytest.mark.parametrize(
    "options", [{"kind": "sentencepiece"}, {"kind": "sentencepiece", "model_type": "unigram"}, {"kind": "bpe"}]
)
def test_training_needs_enough_text_and_says_how_much_is_possible(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "a.txt").write_text("a few words, too few for this\n" * 3)
    settings = TrainTokenizerSettings(inputs=(tmp_path,), output=tmp_path / "out" / "t", vocab_size=5000, **options)
    with pytest.raises(
        TokenizerError, match=r"90 bytes of text are too few for a vocabulary of 5000.*at most \d+"
    ) as error:
        train_tokenizer(settings)
    assert not (tmp_path / "out").exists()
    most = int(str(error.value).rsplit(" ", 1)[1])
    tokenizer = train_tokenizer(settings.model_copy(update={"vocab_size": most})).build()
    assert tokenizer.vocab_size == most
    with pytest.raises(TokenizerError, match="vocabulary of 100 is too small"):
        train_tokenizer(settings.model_copy(update={"vocab_size": 100}))


def test_training_on_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    for kind in ("sentencepiece", "bpe"):
        with pytest.raises(DataError, match="no text to train on"):
            train_tokenizer(TrainTokenizerSettings(inputs=(tmp_path,), output=tmp_path / "t", kind=kind))  # type: ignore[arg-type]


def test_training_takes_a_bounded_sample_and_reports(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"document {n} \n" * 20}) + "\n" for n in range(500)))
    seen: list[TrainProgress] = []
    settings = TrainTokenizerSettings(
        inputs=(tmp_path / "a.jsonl",), output=tmp_path / "t.model", vocab_size=300, max_bytes=30_000
    )
    first = train_tokenizer(settings, seen.append).build()
    assert [seen[-2].stage, seen[-1].stage] == ["training", "done"]
    assert 25_000 < seen[-1].text_bytes <= 30_000
    assert 60 < seen[-1].documents < 130
    assert train_tokenizer(settings).build().digest == first.digest


@pytest.mark.parametrize("kind", ["sentencepiece", "bpe"])
def test_training_twice_gives_the_same_tokenizer(tmp_path: Path, kind: Literal["sentencepiece", "bpe"]) -> None:
    contents = []
    for name in ("a", "b"):
        output = tmp_path / name
        options: dict[str, Any] = {"inputs": (CORPUS,), "text_suffixes": ("py",), "vocab_size": 700}
        train_tokenizer(TrainTokenizerSettings(output=output, kind=kind, **options))
        contents.append(output.read_bytes())
    assert contents[0] == contents[1]


def test_the_training_tool(tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "train_tokenizer.py"
    command = [sys.executable, str(tool), "--input", str(CORPUS), "--text-suffixes", ".py", "--output"]
    done = subprocess.run(
        [*command, str(tmp_path / "t.model"), "--vocab-size", "600"], capture_output=True, text=True, check=True
    )
    assert "600 tokens" in done.stdout
    assert "training" in done.stderr
    tokenizer = tokenizer_settings("sentencepiece", model=tmp_path / "t.model").build()
    assert tokenizer.digest == build("sentencepiece-bpe").digest
    failed = subprocess.run(
        [*command, str(tmp_path / "u.model"), "--vocab-size", "900000"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert "too few" in failed.stderr
    assert not (tmp_path / "u.model").exists()
