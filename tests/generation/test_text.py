"""Tokens as text: what is shown grows by whole characters, and stop strings are never shown by mistake."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_tokenizers import tokenizer

from megadape.generation.text import REPLACEMENT, StopStrings, TextStream

NAMES = ("byte", "unigram", "bpe")
writing = st.text(
    st.sampled_from("ab \n_é€中😀\N{REPLACEMENT CHARACTER}▁'.") | st.characters(codec="utf-8"), max_size=40
)


def stream(name: str, before: list[int], after: list[int], *, whole: bool = True) -> list[str]:
    text = TextStream(tokenizer(name), before, whole=whole)
    return [*map(text.push, after), text.finish()]


@given(st.sampled_from(NAMES), writing, writing)
@example("byte", "", "😀" * 40)
@example("unigram", "x = ", " self and self " * 12)
def test_text_that_comes_in_tokens_is_the_text(name: str, before: str, after: str) -> None:
    own = tokenizer(name)
    pieces = stream(name, own.encode(before).tolist(), own.encode(after).tolist())
    joined = own.decode([*own.encode(before), *own.encode(after)])
    assert before + "".join(pieces) == joined == before + after
    # no character is shown before it is whole: replacement characters are those of the text
    assert "".join(pieces).count(REPLACEMENT) == after.count(REPLACEMENT)


@given(st.sampled_from(("byte", "bpe")), st.data())
def test_any_tokens_give_the_text_that_they_have_together(name: str, data: st.DataObject) -> None:
    own = tokenizer(name)
    ids = data.draw(st.lists(st.integers(0, own.vocab_size - 1), max_size=150))
    pieces = stream(name, [], ids)
    assert "".join(pieces) == own.decode(ids)


def test_a_prompt_in_ids_may_end_within_a_character() -> None:
    own = tokenizer("byte")
    ids = own.encode("a中b").tolist()
    assert "".join(stream("byte", ids[:2], ids[2:], whole=False)) == "中b"


def test_half_a_character_waits() -> None:
    own = tokenizer("byte")
    pieces = stream("byte", own.encode("x").tolist(), own.encode("é😀").tolist())
    assert pieces == ["", "é", "", "", "", "😀", ""]
    assert stream("byte", [], own.encode("é").tolist()[:1]) == ["", REPLACEMENT]


def character_by_character(text: str, stops: list[str], keep: bool) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end if keep else end - max(map(len, ended))], True
    return text, False


@given(
    st.lists(st.text("ab ", max_size=4), max_size=8),
    st.lists(st.text("ab ", min_size=1, max_size=5), max_size=3),
    st.booleans(),
)
def test_the_first_stop_string_ends_a_text_wherever_tokens_are_cut(
    pieces: list[str], strings: list[str], keep: bool
) -> None:
    stops = StopStrings(strings, keep=keep)
    shown = [stops.push(piece) for piece in pieces]
    found = stops.found
    shown.append("" if found else stops.finish())
    wanted, stopped = character_by_character("".join(pieces), strings, keep)
    assert ("".join(shown), found) == (wanted, stopped)


def test_what_may_begin_a_stop_string_waits() -> None:
    stops = StopStrings(["END"], keep=False)
    assert [stops.push(piece) for piece in ("a", "bE", "N", "x", "EN", "D", "more")] == [
        "a",
        "b",
        "",
        "ENx",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_long_texts_are_not_decoded_from_their_beginning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, longest = tokenizer(name), []
    decode = own.decode
    monkeypatch.setattr(own, "decode", lambda ids: longest.append(len(ids)) or decode(ids))  # type: ignore[func-returns-value]
    ids = own.encode("for name in names: print('é', name)\n" * 20).tolist()
    pieces = stream(name, ids, ids)
    assert "".join(pieces) == decode([*ids, *ids])[len(decode(ids)) :]
    assert max(longest[2:]) <= 80
