"""Tokens become text as they come: never half a character, and nothing that a stop string may still take away."""

from __future__ import annotations

from collections.abc import Sequence

from megadape.data import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

UNFINISHED = 3
"""Replacement characters at the end that an unfinished character may show as: it has up to three bytes of four."""

CONTEXT, WINDOW = 8, 64
"""Tokens that are decoded again with every new one: at most about WINDOW, cut to CONTEXT then. What a token stands for
may depend on those before it (SentencePiece drops the space before a text's first word)."""


class TextStream:
    """The text of tokens that follow others.

    Args:
        tokenizer: knows what tokens stand for.
        before: the tokens that they follow.
        whole: whether those end with a whole character, as an encoded text does.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], *, whole: bool = True) -> None:
        self._tokenizer = tokenizer
        self._window = list(before)
        text = tokenizer.decode(self._window)
        self._given = text if whole else _finished(text)
        """Text of the window that was given out."""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        return self._give(text, _finished(text))

    def finish(self) -> str:
        """What is left where nothing follows: a character that stays unfinished is a replacement character."""
        text = self._tokenizer.decode(self._window)
        return self._give(text, text)

    def _give(self, text: str, certain: str) -> str:
        new = certain[len(self._given) :]
        if len(certain) > len(self._given):
            self._given = certain
        if len(self._window) > WINDOW and self._given == text:
            self._cut()
        return new

    def _cut(self) -> None:
        """Forget all but the last tokens, unless they alone would be the beginning of a text."""
        given = self._tokenizer.decode(self._window[-CONTEXT:])
        if given and not given.endswith(REPLACEMENT):
            self._window, self._given = self._window[-CONTEXT:], given


class StopStrings:
    """Lets text pass up to the first of some strings.

    Args:
        strings: not empty ones; of several, the one that is complete first counts.
        keep: whether it passes, too.
    """

    def __init__(self, strings: Sequence[str], *, keep: bool) -> None:
        self._strings, self._keep = strings, keep
        self._held = ""
        self.found = False
        """Whether one was found: nothing passes any more."""

    def push(self, text: str) -> str:
        """The text that may pass now."""
        if self.found:
            return ""
        self._held += text
        starts = ((self._held.find(string), string) for string in self._strings)
        matches = [(start + len(string), start) for start, string in starts if start >= 0]
        if matches:
            self.found = True
            end, start = min(matches)
            passing, self._held = self._held[: end if self._keep else start], ""
            return passing
        return self._pass(len(self._held) - self._begun())

    def finish(self) -> str:
        """What was held back, where nothing follows."""
        return self._pass(len(self._held))

    def _pass(self, count: int) -> str:
        passing, self._held = self._held[:count], self._held[count:]
        return passing

    def _begun(self) -> int:
        """Characters at the end that may begin a stop string."""
        longest = max((len(string) - 1 for string in self._strings), default=0)
        for count in range(min(longest, len(self._held)), 0, -1):
            if any(string.startswith(self._held[-count:]) for string in self._strings):
                return count
        return 0


def _finished(text: str) -> str:
    """The text without what may be an unfinished character at its end."""
    for _ in range(UNFINISHED):
        text = text.removesuffix(REPLACEMENT)
    return text
