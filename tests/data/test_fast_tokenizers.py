"""tiktoken in place of the tokenizers library: the same ids where a file qualifies, and the reason where not."""

import atexit
import json
import logging
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from megadape.data import Tokenizer, tokenizer_settings
from megadape.data.tokenizers import fast, self_check, word_patterns
from megadape.data.tokenizers.base import NotFastError
from megadape.data.tokenizers.byte_pairs import rank_tokens
from megadape.data.tokenizers.self_check import SelfCheck
from megadape.data.tokenizers.word_patterns import GPT2, word_pattern
from megadape.errors import TokenizerError

CORPUS = Path(json.__file__).parent

_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace("{1,3}", "")
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_SUFFIX}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_SUFFIX}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

END, TURN, TOOL = "<|endoftext|>", "<|turn|>", "<tool>"
ADDED = [
    *({"content": TURN, "special": True}, {"content": "<|turn", "special": False}, {"content": "<s>", "special": True}),
    *({"content": TOOL, "special": False}, {"content": "<to", "special": False}, {"content": "ol>", "special": False}),
    *({"content": " " * n, "special": False} for n in (2, 3, 5)),
    *({"content": "re\u0301sume\u0301", "special": False, "normalized": True}, {"content": "é", "special": True}),
]
"""Tokens within each other and over each other, special ones and others, white space, letters that NFC changes."""

Change = Callable[[dict[str, Any]], None]


@cache
def folder() -> Path:
    home = Path(mkdtemp(prefix="fast-tokenizers-"))
    atexit.register(shutil.rmtree, home)
    return home


def train(pattern: str | None) -> dict[str, Any]:
    """A byte-level tokenizer.json with the words of a pattern; None: of ByteLevel itself."""
    library: Library = Library(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    steps = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    library.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([path.read_text() for path in sorted(CORPUS.glob("*.py"))], trainer)
    spec: dict[str, Any] = json.loads(library.to_str())
    return spec


def with_added_tokens(spec: dict[str, Any]) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    first = max(spec["model"]["vocab"].values()) + 1
    spec["added_tokens"] += [{"id": first + n, **flags, **token} for n, token in enumerate(ADDED)]


def with_nfc(spec: dict[str, Any]) -> None:
    spec["normalizer"] = {"type": "NFC"}


def ignoring_merges(spec: dict[str, Any]) -> None:
    """As Llama 3's file: words that are tokens are not merged, and every pair that makes a token is a merge."""
    model = spec["model"]
    vocab = model["vocab"]
    model["ignore_merges"] = True
    model["merges"] = [
        [token[:at], token[at:]]
        for token in sorted(vocab, key=vocab.__getitem__)
        if token != END
        for at in sorted(range(1, len(token)), key=lambda at, token=token: vocab.get(token[:at], 0))  # type: ignore[misc]
        if token[:at] in vocab and token[at:] in vocab
    ]


def of_old_form(spec: dict[str, Any]) -> None:
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]
    spec["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}


FILES: dict[str, tuple[str | None, tuple[Change, ...]]] = {
    "gpt2": (None, ()),
    "gpt2 in a split, nfc, added tokens": (GPT2, (with_nfc, with_added_tokens)),
    "llama3, ignoring merges": (LLAMA3, (ignoring_merges,)),
    "llama3, added tokens": (LLAMA3, (with_added_tokens,)),
    "qwen, nfc, added tokens": (QWEN, (with_nfc, with_added_tokens)),
    "gpt4, old form": (GPT4, (of_old_form,)),
    "gpt4o, added tokens": (GPT4O, (with_added_tokens,)),
}


@cache
def file(name: str) -> Path:
    pattern, changes = FILES[name]
    spec = train(pattern)
    for change in changes:
        change(spec)
    return write(spec, f"{len(list(folder().iterdir()))}.json")


def write(spec: dict[str, Any], name: str) -> Path:
    path = folder() / name
    path.write_text(json.dumps(spec))
    return path


@cache
def build(name: str, way: str, special: str = "text") -> Tokenizer:
    return tokenizer_settings("huggingface", model=file(name), fast=way, special_tokens_in_text=special).build()


STRINGS = [END, TURN, TOOL, *(token["content"] for token in ADDED), "<to", "résumé", "ré", "sume\u0301", "\0\1<mark "]
WORDS = [
    *(
        "don't",
        "DON'T",
        "'\u017f",
        "we'LL've",
        "x1234567",
        "Ǆungla",
        "日本語",
        "ก็",
        "ᄀ\u1161\u11a8",
        "!\n\n",
        "/\r\n/",
    ),
    *("a\u0301", "a b", " a b ", "     x", "\n \t \n   x", "\u3000\u3000\u3000!"),
]
SPACES = st.text(alphabet=" \n\r\t\x0b\x1c\x85\u00a0\u2003\u2028\u3000", min_size=1)
TEXTS = st.lists(st.text() | st.sampled_from(STRINGS + WORDS) | SPACES).map("".join)


def same(name: str, special: str, texts: list[str]) -> None:
    """Every way of encoding gives what the tokenizers library gives to one text after the other."""
    fast_one, reference = build(name, "always", special), build(name, "never", special)
    wanted = [reference.encode(text).tolist() for text in texts]
    assert [fast_one.encode(text).tolist() for text in texts] == wanted
    for tokenizer in (fast_one, reference):
        assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == wanted
        flat, lengths = tokenizer.encode_flat(texts)
        assert flat.tolist() == [i for ids in wanted for i in ids]
        assert lengths.tolist() == [len(ids) for ids in wanted]
        assert (flat.dtype, lengths.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("special", ["text", "special"])
@pytest.mark.parametrize("name", FILES)
@given(texts=st.lists(TEXTS, max_size=4))
def test_ids_equal_the_tokenizers_library(name: str, special: str, texts: list[str]) -> None:
    same(name, special, texts)


@pytest.mark.parametrize("name", FILES)
def test_ids_of_real_files_and_of_all_strings_at_once(name: str) -> None:
    texts = [path.read_text() for path in sorted(CORPUS.parent.glob("c*.py"))[:3]]
    for special in ("text", "special"):
        same(name, special, [*texts, "".join(STRINGS + WORDS), " ".join(STRINGS), "".join(STRINGS * 2), ""])


def test_every_character_has_the_same_class_in_both() -> None:
    """The two libraries bring their own tables of Unicode."""
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xF900 and not 0x33480 <= c < 0xE0000]
    text = "".join(f"{c}a" for c in characters if ord(c) < 0xF0000)
    name = "gpt4o, added tokens"
    assert build(name, "always").encode(text).tolist() == build(name, "never").encode(text).tolist()


@pytest.mark.parametrize("name", FILES)
@given(texts=st.lists(TEXTS, max_size=4))
def test_cuts_change_no_id(name: str, texts: list[str]) -> None:
    """What is done to long texts, done to short ones."""
    limits = {
        (word_patterns, "_SAFE"): 5,
        (word_patterns, "_LONG"): 4,
        (word_patterns, "_PIECE"): 3,
        (fast, "_BATCH"): 9,
    }
    with pytest.MonkeyPatch.context() as patch:
        for (module, limit), value in limits.items():
            patch.setattr(module, limit, value)
        same(name, "special", texts)


@pytest.mark.parametrize("name", ["gpt2", "gpt4, old form"])
def test_white_space_beyond_the_stack_of_the_expressions(name: str) -> None:
    tokenizer = build(name, "always")
    text = "!" + "\n" * 300_000 + "\t" * 1_100_000 + "x" + "\u3000" * 1_100_000 + "\r\n"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    flat, lengths = tokenizer._fast.encode(["x", text, "y"])  # type: ignore[attr-defined]
    assert np.array_equal(flat[1:-1], ids)
    assert lengths.tolist() == [1, len(ids), 1]


def test_a_digest_does_not_depend_on_the_way() -> None:
    for special in ("text", "special"):
        assert build("gpt2", "always", special).digest == build("gpt2", "never", special).digest
    name = "gpt2 in a split, nfc, added tokens"
    assert np.array_equal(build(name, "always").token_bytes(), build(name, "never").token_bytes())


def test_composed_characters_are_left_alone_by_nfc() -> None:
    """Texts of these characters are not normalised: each is NFC already, and joins no other."""
    seconds = {
        unicodedata.normalize("NFD", chr(c))[1:2]
        for c in range(0x110000)
        if unicodedata.decomposition(chr(c)) and not unicodedata.decomposition(chr(c)).startswith("<")
    }
    seconds |= {chr(c) for c in range(0x1161, 0x1176)} | {chr(c) for c in range(0x11A8, 0x11C3)}
    characters = [chr(c) for c in range(0x110000) if fast._COMPOSED.fullmatch(chr(c))]
    library = normalizers.NFC()
    assert len(characters) > 30_000
    assert not any(unicodedata.combining(c) or c in seconds for c in characters)
    text = "".join(characters)
    assert library.normalize_str(text) == unicodedata.normalize("NFC", text) == text


def refused(change: Change, pattern: str | None = None) -> str:
    """Why tiktoken does not run a changed file; it runs the file as it was, and the library runs both."""
    spec = train(pattern)
    tokenizer_settings("huggingface", model=write(spec, "before.json"), fast="always").build()
    change(spec)
    path = write(spec, "changed.json")
    with pytest.raises(TokenizerError, match=r"changed.json cannot be run by tiktoken \(fast: always\): ") as error:
        tokenizer_settings("huggingface", model=path, fast="always").build()
    slow = tokenizer_settings("huggingface", model=path, fast="auto").build()
    reference = Library.from_file(str(path))
    reference.encode_special_tokens = True
    assert slow.encode("a text of 3 words").tolist() == reference.encode("a text of 3 words").ids
    return str(error.value).rpartition("(fast: always): ")[2]


def test_dropout_is_no_work_for_tiktoken() -> None:
    spec = train(None)
    spec["model"]["dropout"] = 0.1
    with pytest.raises(TokenizerError, match=r"cannot be run by tiktoken \(fast: always\): its model has dropout 0.1"):
        tokenizer_settings("huggingface", model=write(spec, "dropout.json"), fast="always").build()


def unmergeable(spec: dict[str, Any]) -> None:
    spec["model"] |= {"ignore_merges": True, "vocab": spec["model"]["vocab"] | {"zqzqz": 5000}}


def reordered(spec: dict[str, Any]) -> None:
    merges = spec["model"]["merges"]
    merges.append(merges.pop(0))


def without_a_byte(spec: dict[str, Any]) -> None:
    del spec["model"]["vocab"]["Ā"]


def stripping(spec: dict[str, Any]) -> None:
    with_added_tokens(spec)
    spec["added_tokens"][4]["lstrip"] = True


@pytest.mark.parametrize(
    ("change", "pattern", "reason"),
    [
        (lambda spec: spec["model"].update(end_of_word_suffix="</w>"), None, "end_of_word_suffix"),
        (lambda spec: spec.update(normalizer={"type": "NFKC"}), None, "its normalizer is NFKC"),
        (lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(add_prefix_space=True), None, "adds a space"),
        (lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(use_regex=False), None, "does not split words"),
        (lambda spec: spec["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True), LLAMA3, "splits words twice"),
        (
            lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(pattern={"String": " "}),
            LLAMA3,
            "or not at a pattern",
        ),
        (
            lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\w+|\s+(?!\S)|\s+"}),
            LLAMA3,
            r"at a pattern that is not known: \w+",
        ),
        (
            lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r" ?\p{L}+|\s+(?!\S)|\s+"}),
            LLAMA3,
            "its words leave out characters such as '1'",
        ),
        (
            lambda spec: spec["pre_tokenizer"]["pretokenizers"].insert(
                0, {"type": "Digits", "individual_digits": True}
            ),
            LLAMA3,
            "its pre-tokenizer is Digits + Split + ByteLevel",
        ),
        (unmergeable, None, "no merge makes its token b'zqzqz'"),
        (reordered, None, "does not follow from the merges before it"),
        (without_a_byte, None, "its vocabulary has no token for b'\\x00'"),
        (stripping, None, "its added token '<tool>' takes white space"),
    ],
)
def test_files_that_tiktoken_cannot_run_are_run_by_the_library_and_say_why(
    change: Change, pattern: str | None, reason: str
) -> None:
    assert reason in refused(change, pattern)


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    spec = train(None)
    good, bad = write(spec, "good.json"), write({**spec, "normalizer": {"type": "Lowercase"}}, "bad.json")
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            for path in (good, bad):
                tokenizer_settings("huggingface", model=path).build()
    assert [(record.levelname, record.message.rpartition("/")[2]) for record in caplog.records] == [
        ("INFO", "good.json: tiktoken runs it"),
        ("WARNING", "bad.json: the tokenizers library runs it, not tiktoken: its normalizer is Lowercase"),
    ]


def test_special_tokens_that_are_text_may_take_white_space() -> None:
    """Their rules do not count where they are text, and do where they are not."""
    spec = train(None)
    with_added_tokens(spec)
    spec["added_tokens"][1]["lstrip"] = True
    path = write(spec, "stripping.json")
    ways = {way: tokenizer_settings("huggingface", model=path, fast=way).build() for way in ("always", "never")}
    text = f"a   {TURN}   b {TOOL}"
    assert ways["always"].encode(text).tolist() == ways["never"].encode(text).tolist()
    with pytest.raises(TokenizerError, match="takes white space"):
        tokenizer_settings("huggingface", model=path, fast="always", special_tokens_in_text="special").build()


class Counting:
    """A real tokenizer that counts the texts it gets, and may be wrong from one of them on."""

    def __init__(self, tokenizer: Tokenizer, wrong: str = "") -> None:
        self.texts: list[str] = []
        self._tokenizer, self._wrong = tokenizer, wrong

    def encode(self, text: str) -> np.ndarray[Any, np.dtype[np.int32]]:
        self.texts.append(text)
        ids = self._tokenizer.encode(text)
        return ids[::-1] if self._wrong and self._wrong in text else ids


def checked(texts: list[str], wrong: str = "") -> list[str]:
    """The texts that were encoded by the reference."""
    fast_one, reference = build("gpt2", "always"), Counting(build("gpt2", "never"), wrong)
    check = SelfCheck("a name", fast_one.encode, reference.encode, [END, "   "])
    for text in texts:
        check.check([text], *fast_one.encode_flat([text]))
    return reference.texts


def test_the_first_texts_and_those_with_added_tokens_are_checked() -> None:
    texts = [f"text {n}" for n in range(100)]
    texts[80] += f" and {END}"
    texts[90] += "   "
    assert checked(texts) == [*texts[: self_check.TEXTS], texts[80]]


def test_long_texts_are_checked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in (("CHARACTERS", 1000), ("_WINDOW", 1000), ("_CONTEXT", 50)):
        monkeypatch.setattr(self_check, limit, value)
    words = "some words " * 100
    parts = checked(["a", words + END + words + words + END, "b"])
    assert [len(part) for part in parts] == [1, 999, 1000, 50 + len(END)]
    assert parts[2].count(END) == parts[3].count(END) == 1
    assert parts[3].endswith(END)


def test_a_difference_is_an_error_that_names_the_text_and_the_way_out() -> None:
    texts = [f"text {n}" for n in range(100)]
    with pytest.raises(TokenizerError, match=r"a name: .*begins 'text 63': .*\(--fast-tokenizer never\)"):
        checked(texts, "text 63")
    assert len(checked(texts, "text 64")) == self_check.TEXTS
    texts[70] += END
    with pytest.raises(TokenizerError, match=r"begins 'text 70<\|endoftext\|>'"):
        checked(texts, END)


def test_a_tokenizer_checks_itself() -> None:
    """The fast way of another vocabulary is found out by the first text."""
    tokenizer = tokenizer_settings("huggingface", model=file("gpt2"), fast="always").build()
    other: Any = build("llama3, added tokens", "always")
    tokenizer._fast = other._fast  # type: ignore[union-attr]
    with pytest.raises(TokenizerError, match="give different ids to the text that begins 'x 1234567'"):
        tokenizer.encode_batch(["x 1234567"])


def test_workers_check_and_choose_without_a_word(tmp_path: Path) -> None:
    """Only the process that a person started speaks."""
    code = (
        "import multiprocessing, sys\n"
        "from megadape.data import tokenizer_settings\n"
        "def work(path): return tokenizer_settings('huggingface', model=path).build().encode('a b').tolist()\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool: print(pool.map(work, sys.argv[1:] * 2))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    path = write({**train(None), "normalizer": {"type": "Lowercase"}}, "lower.json")
    done = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("[") == 3
    assert done.stderr == ""


def test_merges_are_ranked_where_ranks_can_express_them() -> None:
    assert rank_tokens([(b"a", b"b"), (b"ab", b"c")])[256:] == [b"ab", b"abc"]
    # the second pair of a token can never come up, since its bytes lead to the first
    assert rank_tokens([(b"a", b"b"), (b"ab", b"c"), (b"a", b"bc")])[256:] == [b"ab", b"abc"]
    for pairs in (
        [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")],
        [(b"a", b"b"), (b"a", b"b")],
        [(b"ab", b"c")],
    ):
        with pytest.raises(NotFastError, match="does not follow from the merges before it"):
            rank_tokens(pairs)
    assert rank_tokens([(b"ab", b"c")], whole_words=True)[256:] == [b"abc"]


@pytest.mark.parametrize(
    "pattern", ["", "|", r"\s+", r"\s+(?!\S)|\s+|", GPT2 + r"|\p{L}", GPT2.replace("++", "+") + "|"]
)
def test_patterns_of_another_make_are_refused(pattern: str) -> None:
    """Also those whose words may end inside of white space."""
    with pytest.raises(NotFastError, match="not known"):
        word_pattern(pattern)
