"""The patterns that split text into words before byte pairs are merged, in the form that tiktoken runs.

tiktoken and the tokenizers library have different engines for regular expressions. A pattern runs on tiktoken if it is
made of alternatives that are known here to mean the same in both; these are what the files of GPT-2, GPT-4, GPT-4o,
Llama 3, Qwen and their kin are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from megadape.data.tokenizers.base import NotFastError, cut

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's words (Radford et al., 2019)."""

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"

_WORDS = {
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", _SUFFIX, "'(?i:[sdmt]|ll|ve|re)", "'(?:[sdmt]|ll|ve|re)"),
    *(r" ?\p{L}+", r" ?\p{L}++", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\r\n\p{L}\p{N}]?+\p{L}+"),
    *(r"[^\r\n\p{L}\p{N}]?+\p{L}++", r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"),
    *(rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}?", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}?"),
    *(rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"),
    *(r" ?\p{N}+", r" ?\p{N}++", r"\p{N}", r"\p{N}+", r"\p{N}{1,2}", r"\p{N}{1,3}"),
    *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]++", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]++[\r\n]*"),
    *(r" ?[^\s\p{L}\p{N}]++[\r\n]*+", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"),
}
"""Alternatives that begin with at most one white space and go on with none but newlines."""

_LINES = {r"\s*[\r\n]+", r"\s*[\r\n]"}
_ALL_BUT_LAST = r"\s+(?!\S)"
_REST = {r"\s+", r"\s++", r"\s"}

_TO_THE_END = r"\s++$"
"""What ``\\s+(?!\\S)`` matches at the end of a text, without remembering every step on the way."""

_SAFE = 100_000
"""Texts shorter than this cannot exhaust the backtracking stack of tiktoken's regular expressions."""

_LONG = 1000
_BLANK = r"\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space without carriage return and newline."""

_PIECE = 1 << 20
"""Characters of a text that go to tiktoken together."""

_BETWEEN_LETTERS = re.compile("(?<=[A-Za-z]) (?=[A-Za-z])")


@dataclass(frozen=True)
class WordPattern:
    """How a text is split into words."""

    expression: str
    """For tiktoken."""

    _blank: re.Pattern[str]
    """White space, before the last character of which a word begins in any case when there are more."""

    def pieces(self, text: str) -> list[str]:
        """The text in pieces that tiktoken can take, cut where a word begins in any case."""
        if len(text) < _SAFE:
            return [text]
        positions = set(_long_steps(text))
        if any(text[start : start + _LONG // 2].isspace() for start in range(0, len(text), _LONG // 2)):
            positions |= {end - 1 for end in self._long_runs(text)}
        return cut(text, sorted(positions))

    def _long_runs(self, text: str) -> Iterator[int]:
        """Ends of long white space before a word."""
        for match in self._blank.finditer(text):
            start, end = match.span()
            if end - start >= _LONG and text[end : end + 1] not in ("", "\r", "\n"):
                yield end


def word_pattern(source: str) -> WordPattern:
    """The form of a pattern for tiktoken; ``NotFastError`` when it has an alternative that is not known here."""
    alternatives = _alternatives(source)
    rest = alternatives.pop()
    last = alternatives.pop() if alternatives else ""
    lines = [alternatives.pop()] if alternatives and alternatives[-1] in _LINES else []
    unknown = [one for one in alternatives if one not in _WORDS]
    if not lines:
        # they would end inside of white space
        unknown += [one for one in alternatives if "[\\r\\n" in one]
    if unknown or last != _ALL_BUT_LAST or rest not in _REST:
        raise NotFastError(f"it splits words at a pattern that is not known: {(unknown or [source])[0]}")
    expression = "|".join([*alternatives, *lines, _TO_THE_END, last, rest])
    # where newlines end a word of their own, the white space behind the last of them is what counts
    blank = _BLANK if lines else rf"\r\n{_BLANK}"
    return WordPattern(expression, re.compile(f"[{blank}]+"))


def _alternatives(source: str) -> list[str]:
    """The pattern, split at each | outside of parentheses."""
    found, depth, start = [], 0, 0
    for at, character in enumerate(source):
        depth += (character == "(") - (character == ")")
        if character == "|" and not depth:
            found.append(source[start:at])
            start = at + 1
    return [*found, source[start:]]


def _long_steps(text: str) -> Iterator[int]:
    """A space between two letters, about every ``_PIECE`` characters."""
    for start in range(_PIECE, len(text), _PIECE):
        if match := _BETWEEN_LETTERS.search(text, start, start + _SAFE):
            yield match.start()
